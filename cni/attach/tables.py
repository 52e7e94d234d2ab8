"""Our tables in the packet filter: made when an element finds them missing, and brought back when somebody took them.

A table holds no state that isn't written elsewhere: the skeleton is a constant of this version, the rules of networks
and the elements of pods are in the records. So whatever is missing or of another version, the cure is one transaction
that takes the tables away and makes them anew with the elements of all attachments. Established connections don't
notice.

Whoever calls these functions holds `Node.rules_lock`, not shared.
"""

from __future__ import annotations

from cni.attach import claims, elements, reading, record
from cni.kernel import nft, nftlist, ruleset
from cni.kernel.netlink import Refused
from cni.key import Key

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cni.attach.node import Node
    from cni.attach.record import Record
    from cni.kernel.nft import Claim, Element, Fragment
    from cni.wanted import Skeleton


def complete(node: Node, families: Iterable[str], fragments: Sequence[Fragment]) -> None:
    """Makes what is missing of these. Raises Refused, CNIError."""
    if not elements.are_current(node, families):
        restore(node, families)
    there = set()
    for family in families:
        there.update([one.name.rpartition("_")[2] for one in nftlist.declared(node.nf(), family)])
    for fragment in fragments:
        if fragment.name not in there:
            ruleset.load(fragment.text)


def restore(node: Node, families: Iterable[str] = ()) -> None:
    """The tables of these families and of all that there were, as this version makes them, with what is attached."""
    skeleton = node.skeleton
    if skeleton is None:
        raise RuntimeError("a node without a skeleton has no tables")
    noted = node.tables()
    wanted = sorted({*families, *noted})
    new = [family for family in wanted if family not in noted]
    # Before they are made: what is there and not noted nobody would ever look for.
    for family in new:
        node.note_table(family)
    try:
        _load(node, skeleton, wanted)
    except BaseException:
        for family in new:
            node.note_table(family, there=False)
        raise


def _load(node: Node, skeleton: Skeleton, families: Sequence[str]) -> None:
    text = "".join([f"add table {family} {nft.TABLE}\ndelete table {family} {nft.TABLE}\n" for family in families])
    text += "".join([skeleton.text(family) for family in families])
    attached = [old for old in node.records.all() if old.stage in (record.PLANNED, record.COMPLETE)]
    try:
        ruleset.load(text + _told(node, attached, families, set()))
    except Refused:
        # What is refused may be the rules of one that is planned only: conditions that are no words of nft's. Nobody
        # else is to suffer for it, so each goes by itself.
        ruleset.load(text)
        there: set[str] = set()
        for old in attached:
            new = {*there}
            try:
                ruleset.load(_told(node, [old], families, new))
            except Refused:
                continue
            there = new


def _told(node: Node, attached: Iterable[Record], families: Sequence[str], there: set[str]) -> str:
    """What these have in our tables of these families, as nft text. `there` are fragments that are loaded already, to
    which it adds those of the text."""
    text = elements = ""
    for old in attached:
        for fragment in reading.fragments_of(old.objects):
            if fragment.name not in there and any(f"table {family} " in fragment.text for family in families):
                there.add(fragment.name)
                text += fragment.text
        found = reading.elements_of(old.objects)
        mine = claims.mine(node, old.key, [one.claim for one in found if one.claim])
        for one in found:
            if one.family in families and (not one.claim or one.claim in mine):
                elements += one.line("add") + "\n"
    return text + elements


def repair(node: Node) -> None:
    """Brings back the tables that were made in this boot, if one is missing or has lost its rules. For STATUS."""
    families = node.tables()
    if families and not elements.are_current(node, families):
        with node.rules_lock(shared=False):
            if not elements.are_current(node, families):
                restore(node)


def left_by(node: Node, lost: Iterable[tuple[str, Claim]]) -> list[Element]:
    """What may be there yet of what dead attachments had, until somebody else claimed it: (owner, claim).

    Of one that no record lists the elements of, all that bears its tag, since nobody else will take it away.
    """
    found: list[Element] = []
    for owner, claim in lost:
        key = Key.parse(owner)
        old = node.records.read(key) if key else None
        if old:
            found += [one for one in reading.elements_of(old.objects) if one.claim == claim]
        elif key:
            found += [
                one for family in node.tables() for one in nftlist.elements(node.nf(), family) if one.tag == key.tag
            ]
    return found


def drop_tagged(node: Node, keys: Sequence[Key]) -> None:
    """The elements that bear these attachments' tags, and their claims: where no record lists them."""
    tags = {key.tag for key in keys}
    with node.rules_lock(shared=False), node.claims_lock():
        for family in node.tables():
            nft.transact(node.nf(), [one.drop() for one in nftlist.elements(node.nf(), family) if one.tag in tags])
        claims.disown(node, {str(key) for key in keys})


def collect(node: Node) -> None:
    """Removes what no record lists: elements, the rules of networks that have no pods, and claims."""
    with node.rules_lock(shared=False), node.claims_lock():
        keys = node.records.every_key()
        tags = {key.tag for key in keys}
        fragments = {one.name for old in node.records.all() for one in reading.fragments_of(old.objects)}
        for family in node.tables():
            found = nftlist.elements(node.nf(), family)
            nft.transact(node.nf(), [one.drop() for one in found if one.tag not in tags])
            _remove_rules(node, family, fragments)
        claims.disown(node, claims.owners(node) - {str(key) for key in keys})


def _remove_rules(node: Node, family: str, used: set[str]) -> None:
    """Of networks that nobody uses any more: the chains and sets whose names end in that of no record's fragment."""
    skeleton = node.skeleton
    constant = set(skeleton.text(family).split()) if skeleton else set()
    old = [
        one
        for one in nftlist.declared(node.nf(), family)
        if one.name not in constant and one.name.rpartition("_")[2] not in used
    ]
    # Emptied first: nothing that a rule names can be deleted, nor what an element of a map does.
    text = [f"{verb} {one.kind} {family} {nft.TABLE} {one.name}\n" for verb in ("flush", "delete") for one in old]
    if old and skeleton:
        ruleset.load("".join(text))
