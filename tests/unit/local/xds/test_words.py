import pytest

from apirule.local.xds.words import of_machine, plain

DUMPED = """goo.gle/debugproto
name: "https.443"
virtual_hosts {
  name: "secret.kyma.localhost:443"
}
: Proto constraint validation failed (RouteConfigurationValidationError.VirtualHosts[3]: embedded \
message failed validation | caused by VirtualHostValidationError.Routes[0]: embedded message \
failed validation | caused by RouteValidationError.Match: value is too short)"""


def test_what_envoy_dumps_of_others_is_left_out() -> None:
    assert plain(DUMPED) == ("VirtualHosts[3].Routes[0].Match: value is too short")
    assert plain("goo.gle/debugproto\nname: 'x'\n: It is bad.") == "It is bad."
    assert plain("missing ): /a(\n") == "missing ): /a("
    assert plain('goo.gle/debugonly  \nname: "secret"\nvirtual_hosts {').startswith("it breaks")


def test_no_text_is_longer_than_a_person_reads() -> None:
    assert len(plain("x" * 10_000)) < 600


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "listener(s) gateway_80: cannot bind '127.0.0.1:80': Address already in use\n",
            "port 80 of 127.0.0.1 is in use by another program",
        ),
        (
            "cannot bind '[::1]:80': Permission denied",
            "port 80 of [::1] may only be opened by root",
        ),
        ("cannot bind '10.0.0.1:8': No way", "port 8 of 10.0.0.1 cannot be opened: No way"),
        ("missing ): /a(", ""),
    ],
)
def test_what_the_machine_refuses_is_told_from_what_an_object_spoils(text: str, words: str) -> None:
    assert of_machine(text) == words
