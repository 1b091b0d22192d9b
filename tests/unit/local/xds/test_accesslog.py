from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage

from apirule.local.xds.accesslog import DenialLog
from apirule.names import ObjectName

NODE = "default/app"
UNKNOWN_KEY = "jwt_authn_access_denied{Jwks_doesn't_have_key_to_match_kid_or_alg_from_Jwt}"


def entry(
    details: str, status: int = 401, path: str = "/a?access_token=secret"
) -> HTTPAccessLogEntry:
    found = HTTPAccessLogEntry()
    found.response.response_code_details = details
    found.response.response_code.value = status
    found.request.original_path = path
    found.request.authority = "h"
    found.request.request_method = 1
    return found


def message(*entries: HTTPAccessLogEntry) -> StreamAccessLogsMessage:
    found = StreamAccessLogsMessage()
    found.http_logs.log_entry.extend(entries)
    return found


def test_denial_is_kept_without_its_query() -> None:
    log = DenialLog()

    log.take(NODE, message(entry("rbac_access_denied_matched_policy[none]", 403)))

    (denial,) = log.recent()
    assert (denial.proxy, denial.path, denial.status) == (ObjectName("default", "app"), "/a", 403)
    assert "secret" not in repr(denial)


def test_answers_of_the_application_are_not_denials() -> None:
    log = DenialLog()

    log.take(NODE, message(entry("via_upstream", 403)))

    assert log.recent() == ()


def test_unknown_key_is_told_once_for_each_message() -> None:
    told: list[ObjectName] = []
    log = DenialLog(told.append)

    log.take(NODE, message(entry(UNKNOWN_KEY), entry(UNKNOWN_KEY)))
    log.take(NODE, message(entry("jwt_authn_access_denied{Jwt_is_expired}")))

    assert told == [ObjectName("default", "app")]


def test_newest_denials_are_kept_and_long_texts_are_cut() -> None:
    log = DenialLog(keep=2)

    for n in range(3):
        log.take(NODE, message(entry(UNKNOWN_KEY, path=f"/{n}" + "x" * 5000)))

    assert [d.path[:2] for d in log.recent()] == ["/1", "/2"]
    assert max(len(d.path) for d in log.recent()) < 1000
