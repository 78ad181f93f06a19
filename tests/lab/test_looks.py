"""Laws of the look: one for each method, wherever it is drawn, and a free one for what is no method."""

from fluctua.lab.looks import LOOKS, looks


def test_no_two_methods_look_the_same() -> None:
    assert len(set(LOOKS.values())) == len(LOOKS)


def test_a_method_looks_the_same_in_any_company() -> None:
    alone = looks(["measured"])["measured"]
    assert looks(["kaiming", "another", "measured"])["measured"] == alone


def test_what_is_no_method_gets_a_look_of_its_own() -> None:
    found = looks([f"network {k}" for k in range(8)])
    assert len({tuple(look.items()) for look in found.values()}) == 8
