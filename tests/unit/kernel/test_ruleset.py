"""What is made of nft's errors, also of those that this machine's kernel has no occasion for."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.kernel import ruleset

MASQUERADE = """/proc/self/fd/7:5:3-12: Error: Could not process rule: No such file or directory
\t\tmasquerade fully-random
\t\t^^^^^^^^^^
"""
LATER = """/dev/stdin:2:9-11: Error: Could not process rule: Operation not supported
        fib daddr type local ct status dnat masquerade
        ^^^^^^^^^^^^^^
/dev/stdin:3:9-11: Error: something else
"""


@pytest.mark.parametrize(
    ("said", "code", "text"),
    [
        (
            MASQUERADE,
            errno.ENOENT,
            'No such file or directory in "masquerade fully-random": does this kernel have CONFIG_NFT_MASQ?',
        ),
        (
            LATER,
            errno.EOPNOTSUPP,
            'Operation not supported in "fib daddr type local ct status dnat masquerade": '
            "does this kernel have CONFIG_NFT_FIB_INET?",
        ),
        (
            "/dev/stdin:1:14-20: Error: Could not process rule: Operation not supported\n"
            "table bridge podwire {\n             ^^^^^^^\n",
            errno.EOPNOTSUPP,
            'Operation not supported in "table bridge podwire {": does this kernel have CONFIG_NF_TABLES_BRIDGE?',
        ),
        (
            "/dev/stdin:1:1-3: Error: Could not process rule: No such file or directory\n"
            "type nat hook prerouting priority -90\n^^^\n",
            errno.ENOENT,
            'No such file or directory in "type nat hook prerouting priority -90": '
            "does this kernel have CONFIG_NFT_NAT?",
        ),
        (
            "/dev/stdin:1:1-3: Error: No such file or directory; did you mean chain 'foo' in table inet 'podwire'?\n"
            "jump nowhere\n^^^^\n",
            errno.ENOENT,
            'No such file or directory in "jump nowhere"',
        ),
        (
            "Error: cache initialization failed: Operation not permitted\n",
            errno.EPERM,
            "cache initialization failed: Operation not permitted",
        ),
        ("Warning: old\nError: syntax error, unexpected junk\n", errno.EINVAL, "syntax error, unexpected junk"),
        ("nft: cannot execute\nreally\n", errno.EINVAL, "nft: cannot execute"),
        ("", errno.EINVAL, "it failed without a word"),
    ],
)
def test_an_error_of_nft_is_one_line_that_names_what_the_kernel_may_lack(said: str, code: int, text: str) -> None:
    refused = ruleset.refused(said)

    assert (refused.errno, refused.what, refused.hint) == (code, "nft -f -", text)


def test_where_nothing_is_marked_the_line_has_to_do() -> None:
    said = "/dev/stdin:1:1-3: Error: Could not process rule: Operation not supported\nredirect to :80\n"

    assert ruleset.refused(said).hint.endswith("does this kernel have CONFIG_NFT_REDIR?")


@given(st.text(st.sampled_from("Error: ^\nxé'\""), max_size=60))
def test_whatever_it_says_is_an_error(said: str) -> None:
    assert str(ruleset.refused(said)).startswith("nft -f -: ")
