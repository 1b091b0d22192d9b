import pytest

from apirule.local.processes.images import NotMapped, Program, port_of, program_of, repository


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("kennethreitz/httpbin", "kennethreitz/httpbin"),
        ("docker.io/kennethreitz/httpbin:latest", "kennethreitz/httpbin"),
        ("localhost:5000/kennethreitz/httpbin", "kennethreitz/httpbin"),
        ("ghcr.io/mirror/curlimages/curl:8.1@sha256:abc", "curlimages/curl"),
        ("nginx:1.27", "nginx"),
    ],
)
def test_registry_tag_and_digest_do_not_matter(image: str, expected: str) -> None:
    assert repository(image) == expected


@pytest.mark.parametrize(
    "image", ["kennethreitz/httpbin", "docker.io/mccutchen/go-httpbin:v2.15.0"]
)
def test_the_images_of_the_tutorials_are_the_real_httpbin(image: str) -> None:
    program = program_of(image, (), (), installed=lambda _: True)

    assert isinstance(program, Program)
    assert program.bundled
    assert "apirule.local.processes.httpbin" in program.argv


def test_a_missing_httpbin_says_what_to_install() -> None:
    program = program_of("kennethreitz/httpbin", (), (), installed=lambda name: name != "httpbin")

    assert isinstance(program, NotMapped)
    assert "pip install 'apirule[demo]'" in program.message


def test_any_other_image_runs_its_command() -> None:
    program = program_of("busybox", ("sh", "-c"), ("sleep 1",))

    assert isinstance(program, Program)
    assert program.argv == ("sh", "-c", "sleep 1")


def test_arguments_alone_do_not_say_what_to_run() -> None:
    program = program_of("nginx", (), ("-g", "daemon off;"))

    assert isinstance(program, NotMapped)
    assert "`command`" in program.message


@pytest.mark.parametrize(
    ("command", "args", "argv"),
    [
        ((), (), ("sleep", "infinity")),
        (("/bin/sleep", "3650d"), (), ("/bin/sleep", "3650d")),
        ((), ("-s", "http://web"), ("curl", "-s", "http://web")),
        ((), ("http://web",), ("curl", "http://web")),
        ((), ("curl", "-s", "http://web"), ("curl", "-s", "http://web")),
        ((), ("sh", "-c", "true"), ("sh", "-c", "true")),
        (("sh",), ("-c", "true"), ("sh", "-c", "true")),
    ],
    ids=[
        "waits to be used",
        "runs the command",
        "options are for curl",
        "what is no program is for curl",
        "curl by its name",
        "another program by its name",
        "a command with arguments",
    ],
)
def test_curl(command: tuple[str, ...], args: tuple[str, ...], argv: tuple[str, ...]) -> None:
    program = program_of(
        "curlimages/curl", command, args, is_program=lambda word: word in ("curl", "sh")
    )

    assert isinstance(program, Program)
    assert program.argv == argv


@pytest.mark.parametrize(
    ("image", "command", "args", "port"),
    [
        ("kennethreitz/httpbin", (), (), 80),
        ("kennethreitz/httpbin", ("gunicorn", "-b", "0.0.0.0:8080", "httpbin:app"), (), 80),
        ("kong/httpbin", (), ("gunicorn", "httpbin:app"), 80),
        ("mccutchen/go-httpbin", ("/bin/go-httpbin",), ("-port", "9000"), 8080),
        ("mccutchen/go-httpbin", (), ("-port", "9000"), 8080),
    ],
)
def test_httpbin_is_ours_whatever_options_its_own_server_is_given(
    image: str, command: tuple[str, ...], args: tuple[str, ...], port: int
) -> None:
    program = program_of(image, command, args, installed=lambda _: True)

    assert isinstance(program, Program)
    assert program.bundled
    assert ("options are not used" in program.note) is bool(command or args)
    assert port_of(image, command, args) == port


@pytest.mark.parametrize(
    ("image", "command", "args"),
    [
        ("kennethreitz/httpbin", ("sleep", "9"), ()),
        ("kennethreitz/httpbin", (), ("sh", "-c", "true")),
        ("mccutchen/go-httpbin", ("python", "app.py"), ("--debug",)),
    ],
)
def test_another_command_in_an_image_of_httpbin_is_run(
    image: str, command: tuple[str, ...], args: tuple[str, ...]
) -> None:
    program = program_of(image, command, args, installed=lambda _: True)

    assert isinstance(program, Program)
    assert program.argv == command + args
    assert not program.bundled
    assert port_of(image, command, args) is None
