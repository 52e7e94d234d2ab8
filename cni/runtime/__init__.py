"""The runtime's side of the CNI specification, as libcni is for containerd: for people, tests and the demo.

    network = conflist.find(Path("/etc/cni/net.d"), "podnet")
    runtime = Runtime(["/opt/cni/bin"], Cache(), os.environ)
    attachment = Attachment(names.container_id(netns), netns)
    runtime.add(network, attachment)
    runtime.delete(network, attachment)

Not on the path of a pod: nothing that a container runtime executes imports it.
"""
