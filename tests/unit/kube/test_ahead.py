"""Our own writes count until the watch has told them, and not a moment longer."""

from apirule.apis.meta import GroupVersionKind, Object
from apirule.kube.ahead import Ahead
from apirule.kube.client import Client
from apirule.kube.config import KubeConfig
from apirule.kube.informer import Informer
from apirule.names import ObjectName

NAME = ObjectName("shop", "a")


class Told(Informer):
    """An informer that is told by hand."""

    def __init__(self) -> None:
        config = KubeConfig(server="http://127.0.0.1:1")
        super().__init__(Client(config), GroupVersionKind("", "v1", "ConfigMap"))

    def tell(self, obj: Object) -> None:
        self._put(obj)

    def tell_gone(self, obj: Object) -> None:
        self._remove(obj)


def at(version: str) -> Object:
    meta = {"namespace": NAME.namespace, "name": NAME.name, "uid": "1", "resourceVersion": version}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}


def test_what_was_written_is_read_before_the_watch_tells_it() -> None:
    informer = Told()
    ahead = Ahead(informer)
    informer.tell(at("1"))

    ahead.wrote(NAME, at("1"), at("2"))
    ahead.wrote(NAME, at("2"), at("3"))

    assert ahead.get(NAME) == at("3")


def test_an_earlier_write_that_is_told_does_not_hide_the_later_one() -> None:
    informer = Told()
    ahead = Ahead(informer)
    informer.tell(at("1"))
    ahead.wrote(NAME, at("1"), at("2"))
    ahead.wrote(NAME, at("2"), at("3"))

    informer.tell(at("2"))

    assert ahead.get(NAME) == at("3")


def test_what_others_wrote_since_counts() -> None:
    informer = Told()
    ahead = Ahead(informer)
    informer.tell(at("1"))
    ahead.wrote(NAME, at("1"), at("2"))

    informer.tell(at("9"))

    assert ahead.get(NAME) == at("9")


def test_an_answer_that_comes_after_the_watch_is_not_needed() -> None:
    informer = Told()
    ahead = Ahead(informer)
    informer.tell(at("2"))
    informer.tell(at("3"))

    ahead.wrote(NAME, at("1"), at("2"))

    assert ahead.get(NAME) == at("3")


def test_what_was_created_is_not_missed_when_it_is_deleted_by_others() -> None:
    informer = Told()
    ahead = Ahead(informer)
    ahead.wrote(NAME, None, at("1"))
    before = ahead.get(NAME)

    informer.tell(at("1"))
    informer.tell_gone(at("1"))

    assert before == at("1")
    assert ahead.get(NAME) is None


def test_what_was_deleted_is_gone_before_the_watch_tells_it() -> None:
    informer = Told()
    ahead = Ahead(informer)
    informer.tell(at("1"))

    ahead.wrote(NAME, at("1"), None)

    assert ahead.get(NAME) is None


def test_what_was_created_and_deleted_does_not_come_back() -> None:
    ahead = Ahead(Told())

    ahead.wrote(NAME, None, at("1"))
    ahead.wrote(NAME, at("1"), None)

    assert ahead.get(NAME) is None


def test_a_new_list_counts_more_than_a_write_it_does_not_show() -> None:
    informer = Told()
    ahead = Ahead(informer)
    ahead.wrote(NAME, None, at("1"))

    informer.lists += 1

    assert ahead.get(NAME) is None


def test_a_write_is_kept_as_the_cache_keeps_objects() -> None:
    ahead = Ahead(Told())
    answer = at("1")
    answer["metadata"]["managedFields"] = [{"manager": "apirule"}]

    ahead.wrote(NAME, None, answer)

    assert ahead.get(NAME) == at("1")
