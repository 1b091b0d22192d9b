"""What a list or a watch may ask for at once; the words are those of Kubernetes."""

from collections.abc import Callable
from typing import Any

import pytest

from apirule.local.apiserver.errors import StatusError
from apirule.local.apiserver.http import Request
from apirule.local.apiserver.list_options import check_list, check_watch


def request(query: str) -> Request:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "query_string": query.encode(),
        "headers": [],
    }
    return Request(scope, receive)


@pytest.mark.parametrize(
    ("check", "query"),
    [
        (check_list, ""),
        (check_list, "resourceVersion=0"),
        (check_list, "resourceVersion=5&resourceVersionMatch=Exact"),
        (check_list, "resourceVersion=0&resourceVersionMatch=NotOlderThan"),
        (check_list, "continue=x&resourceVersion=0"),
        (check_watch, "resourceVersion=5"),
        (check_watch, "sendInitialEvents=true&resourceVersionMatch=NotOlderThan"),
        (check_watch, "sendInitialEvents=false&resourceVersionMatch=NotOlderThan"),
    ],
)
def test_what_makes_sense_is_taken(check: Callable[[Request], None], query: str) -> None:
    check(request(query))


@pytest.mark.parametrize(
    ("check", "query", "code", "says"),
    [
        (check_list, "resourceVersionMatch=Exact", 422, "unless resourceVersion is provided"),
        (check_list, "resourceVersion=5&resourceVersionMatch=Foo", 422, 'value: "Foo": supported'),
        (check_list, "resourceVersion=0&resourceVersionMatch=Exact", 422, '"exact" is forbidden'),
        (
            check_list,
            "continue=x&resourceVersion=0&resourceVersionMatch=NotOlderThan",
            422,
            "when continue is provided",
        ),
        (check_list, "continue=x&resourceVersion=5", 400, "not allowed when using continue"),
        (check_list, "sendInitialEvents=true", 422, "sendInitialEvents is forbidden for list"),
        (check_watch, "sendInitialEvents=true", 422, "requires setting resourceVersionMatch"),
        (check_watch, "resourceVersionMatch=NotOlderThan", 422, "unless sendInitialEvents"),
        (check_watch, "sendInitialEvents=1&resourceVersionMatch=Exact", 422, '"NotOlderThan"'),
    ],
)
def test_what_contradicts_itself_is_refused(
    check: Callable[[Request], None], query: str, code: int, says: str
) -> None:
    with pytest.raises(StatusError) as refused:
        check(request(query))

    assert refused.value.code == code
    assert says in refused.value.message
