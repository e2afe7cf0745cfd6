"""From a memory file to the database and back: import, differences, sharing, resume, verification, unreadable files."""

import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_edn import values

import datalog as d
from migration import entities, importer, report
from migration.entities import fetch
from migration.importer import BOOKKEEPING, import_memory
from migration.keymap import builtin
from migration.source import read_memory, write_memory
from migration.verify import first_difference, verify
from store.check import check_path
from store.edn import Keyword, Map, read_edn, strict_equal
from store.errors import EdnError, KeyMapError, TransactionError

BUILTIN = builtin()
ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "memory.edn"
kw = Keyword


def memory(text):
    """The memory whose entries are these."""
    return read_edn("{" + text + "}")


@pytest.fixture
def conn():
    """A database that is gone after the test."""
    with d.connect(None) as connection:
        yield connection


def bring(conn, text, **options):
    """Imports a memory given as the inside of an EDN map; the database then holds exactly that."""
    wanted = memory(text)
    done = import_memory(conn, wanted, BUILTIN, **options)
    if options.get("delete_missing", True):
        outcome = verify(conn.db(), BUILTIN, wanted)
        assert outcome.equal, report.verification_text(outcome)
    return done


def stored(conn, key):
    """What the database holds of one key."""
    return fetch(conn.db(), BUILTIN, [kw(key)])[kw(key)]


def changes(conn, text):
    """(added, retracted) datoms of an import, as (attribute, value) pairs, without versions and digests."""
    seen = []
    conn.listen(seen.append, key="changes")
    bring(conn, text)
    conn.unlisten("changes")
    own = (*BOOKKEEPING, ":memory/version", ":memory/digest")
    datoms = [datom for r in seen for datom in r.tx_data if datom.a not in own]
    return tuple(sorted((x.a, str(x.v)) for x in datoms if x.added is added) for added in (True, False))


# -- a whole memory


def test_example_is_equal(conn, tmp_path):
    """Every key of the example memory is read back strictly equal, from the database alone and from its export."""
    file = read_memory(EXAMPLE)
    done = import_memory(conn, file, BUILTIN, full_check=True)
    assert (done.added, done.changed, done.deleted) == (len(file), 0, 0)
    outcome = verify(conn.db(), BUILTIN, file)
    assert outcome.equal
    assert outcome.same == outcome.keys == outcome.stored == len(file)
    out = StringIO()
    write_memory([(k, s.value(BUILTIN)) for k, s in fetch(conn.db(), BUILTIN).items()], out)
    exported = tmp_path / "exported.edn"
    exported.write_text(out.getvalue(), encoding="utf-8", newline="")
    again = read_memory(exported)
    assert strict_equal(again.values_by_key, file.values_by_key)
    assert verify(conn.db(), BUILTIN, again).equal
    assert check_path(conn.path)[0] == []


def test_same_file_again_writes_nothing(conn):
    """Importing what is there already makes no transaction, also when the order of maps and sets is another."""
    file = read_memory(EXAMPLE)
    import_memory(conn, file, BUILTIN)
    before = conn.db().basis_tx
    turned = dict(reversed(list(file.items())))
    done = import_memory(conn, turned, BUILTIN)
    assert (done.added, done.changed, done.deleted, done.unchanged) == (0, 0, 0, len(file))
    assert conn.db().basis_tx == before


def test_chunks_make_no_difference(conn):
    """In chunks of 7 keys, sessions that meet across chunks included, the database holds the same facts."""
    file = read_memory(EXAMPLE)
    import_memory(conn, file, BUILTIN, chunk=7)
    assert verify(conn.db(), BUILTIN, file).equal
    with d.connect(None) as other:
        import_memory(other, file, BUILTIN)
        for attr in sorted(BUILTIN.attributes_used()):
            count = f"[:find (count ?e) . :with ?v :where [?e {attr} ?v]]"
            assert conn.q(count) == other.q(count), attr


def test_reading_leaves_the_file_alone(conn, tmp_path):
    """Bytes and modification time of the memory file are as before."""
    file = tmp_path / "memory.edn"
    file.write_bytes(EXAMPLE.read_bytes())
    os.utime(file, (1, 1))
    import_memory(conn, read_memory(file), BUILTIN)
    assert file.read_bytes() == EXAMPLE.read_bytes()
    assert file.stat().st_mtime == 1


def test_other_data_stays(conn):
    """What the application keeps beside the memory is neither touched nor in the way."""
    conn.update_schema({":person/name": {":db/valueType": ":db.type/string"}})
    ada = conn.transact([{":db/id": "ada", ":person/name": "Ada"}]).tempids["ada"]
    bring(conn, ":a 1 :presence/s {:ada {}}")
    bring(conn, "")
    assert conn.pull("[*]", ada)[":person/name"] == "Ada"


# -- entities that are shared, and such that are not


def test_session_and_presence_share_an_entity(conn):
    """Both keys of a session lead to one entity, whichever comes first; users present are its components."""
    bring(
        conn, ":presence/s {:ada {:user-id :ada}} :collab-session/s {:owner :alan} :presence/t {} :collab-session/u {}"
    )
    assert conn.q("[:find (count ?s) . :where [?s :session/id]]") == 3
    found = conn.q(
        """[:find ?owner ?user
            :where [?s :session/id "s"] [?s :session/owner ?owner] [?p :presence/session ?s] [?p :presence/user ?user]]"""
    )
    assert list(found) == [(kw("alan"), kw("ada"))]
    session = conn.pull("[{:session/presence [:presence/user]}]", [":session/id", "s"])
    assert session[":session/presence"] == [{":presence/user": kw("ada")}]
    bring(conn, ":collab-session/t {:owner :grace} :presence/t {} :presence/s {:ada {:user-id :ada}}")
    assert conn.q('[:find ?o . :where [?s :session/id "t"] [?s :session/owner ?o]]') == kw("grace")


def test_a_shared_entity_goes_with_its_last_key(conn):
    """When one key of a session goes, the other keeps the entity and its own attributes; with the second all goes."""
    both = ":presence/s {:ada {:user-id :ada}} :collab-session/s {:owner :alan :members #{:ada}}"
    bring(conn, both)
    bring(conn, ":presence/s {:ada {:user-id :ada}}")
    assert conn.q("[:find [?o ...] :where [_ :session/owner ?o]]") == []
    assert conn.q("[:find [?i ...] :where [_ :session/id ?i]]") == ["s"]
    bring(conn, both)
    bring(conn, ":collab-session/s {:owner :alan :members #{:ada}}")
    assert conn.q("[:find [?u ...] :where [_ :presence/user ?u]]") == []
    bring(conn, both)
    bring(conn, "")
    for attr in (":session/id", ":session/presence", ":presence/user", ":session/members", ":memory/entity"):
        assert conn.q(f"[:find [?e ...] :where [?e {attr}]]") == []


def test_ids_that_meet_stay_apart(conn):
    """One project id under two users, one learning id under three keys, a builder session with a session's id."""
    bring(
        conn,
        """:projects/a {"p" {:project/id "p" :project/name "A"}} :projects/b {"p" {:project/id "p" :project/name "B"}}
           :x/1 {:learning/id "l" :learning/title "1"} :x/2 {:learning/id "l" :learning/title "2"} :deleted/l {:learning/id "l"}
           :builder-sessions/a {"s" {:session/id "s" :step 1}} :builder-sessions/b {"s" {:session/id "s" :step 2}}
           :collab-session/s {:session/id "s" :owner :ada}""",
    )
    assert sorted(conn.q('[:find [?n ...] :where [?p :project/id "p"] [?p :project/name ?n]]')) == ["A", "B"]
    assert conn.q('[:find (count ?l) . :where [?l :learning/id "l"]]') == 3
    assert conn.q('[:find (count ?b) . :where [?b :builder-session/id "s"]]') == 2
    assert conn.q('[:find (count ?s) . :where [?s :session/id "s"]]') == 1
    bring(conn, ':projects/a {"p" {:project/id "p" :project/name "A"}} :x/1 {:learning/id "l" :learning/title "1"}')
    assert conn.q('[:find [?n ...] :where [?p :project/id "p"] [?p :project/name ?n]]') == ["A"]


# -- differences


def test_only_differences_are_written(conn):
    """An update of one part of one entity writes that part, the version and the digest."""
    bring(conn, ":presence/s {:ada {:user-id :ada :color 1 :last-seen 5} :alan {:user-id :alan :last-seen 6}}")
    added, retracted = changes(
        conn, ":presence/s {:ada {:user-id :ada :color 1 :last-seen 7} :alan {:user-id :alan :last-seen 6}}"
    )
    assert added == [(":presence/last-seen", "7")]
    assert retracted == [(":presence/last-seen", "5")]
    assert stored(conn, "presence/s").state.version == 2


def test_tags_that_vanish_are_retracted(conn):
    """The tag index is brought up to date tag by tag and learning by learning."""
    bring(conn, ':learning/tag-index {"a" #{"x" "y"} "b" #{"x"} "c" #{"z"}}')
    added, retracted = changes(conn, ':learning/tag-index {"a" #{"x" "w"} "c" #{"z"} "d" #{}}')
    assert (":tag/learning", "w") in added
    assert (":tag/name", "d") in added
    assert (":tag/learning", "y") in retracted
    assert (":tag/name", "b") in retracted
    assert ":tag/count" not in {a for a, _ in added} - {":tag/count"}
    assert not [v for a, v in added + retracted if v == "z"]
    assert sorted(conn.q("[:find ?n ?c :where [?t :tag/name ?n] [?t :tag/count ?c]]")) == [("a", 2), ("c", 1), ("d", 0)]


def test_who_leaves_is_retracted(conn):
    """A user who leaves a session loses the presence entity, and the session its component."""
    bring(conn, ":presence/s {:ada {} :alan {}}")
    bring(conn, ":presence/s {:alan {}}")
    assert conn.q("[:find [?u ...] :where [_ :session/presence ?p] [?p :presence/user ?u]]") == [kw("alan")]


def test_creation_times_are_written_once(conn):
    """A later creation time is read back, but the attribute keeps the first, until the key is deleted."""
    bring(
        conn, ':collab-session/s {:created-at 1} :projects/a {"p" {:project/created-at 1} "q" {:project/created-at 9}}'
    )
    for text in (":created-at 2", "", ':created-at "x"', ":created-at 1", ":created-at 3"):
        project = text.replace(":created-at", ":project/created-at")
        bring(conn, f':collab-session/s {{{text}}} :projects/a {{"p" {{{project}}} "q" {{:project/created-at 9}}}}')
        assert conn.q("[:find ?t . :where [_ :session/created-at ?t]]") == 1
        assert sorted(conn.q("[:find [?t ...] :where [_ :project/created-at ?t]]")) == [1, 9]
    bring(conn, "")
    bring(conn, ":collab-session/s {:created-at 5}")
    assert conn.q("[:find ?t . :where [_ :session/created-at ?t]]") == 5


def test_deleted_keys_leave_a_tombstone(conn):
    """A key that the file no longer has is deleted: its entities go, the key and its version stay, and it may return."""
    bring(conn, ":a 1 :b {:learning/id 7}")
    done = bring(conn, ":a 1")
    assert done.deleted == 1
    state = stored(conn, "b").state
    assert (state.deleted, state.version, state.digest) == (True, 2, None)
    assert conn.q("[:find [?l ...] :where [?l :learning/id]]") == []
    done = bring(conn, ":a 1 :b {:learning/id 8}")
    assert (done.added, done.changed) == (0, 1)
    state = stored(conn, "b").state
    assert (state.deleted, state.version) == (False, 3)


def test_missing_keys_can_be_kept(conn):
    """With delete_missing=False an import of part of a memory deletes nothing."""
    bring(conn, ":a 1 :b 2")
    done = bring(conn, ":a 3", delete_missing=False)
    assert (done.changed, done.deleted) == (1, 0)
    assert stored(conn, "b").value(BUILTIN) == 2


def test_a_value_may_change_its_kind(conn):
    """When the shape of a value changes, other rules map it; nothing of the old entities is left."""
    for value in ('{:session/id "s" :owner :ada}', "nil", "{}", "5", '{:learning/id "s"}', "{:owner :alan}"):
        bring(conn, f":collab-session/s {value} :x/y {value} :presence/s {value}")
    bring(conn, ":collab-session/s nil :x/y nil :presence/s nil")
    assert conn.q("[:find (count ?e) . :where [_ :memory/entity ?e]]") == 3
    assert conn.q("[:find [?e ...] :where [?e :session/id]]") == []


SOME_KEYS = [
    "collab-session/s", "presence/s", "collab-session/t", "presence/t", "projects/a", "builder-sessions/a",
    "learning/tag-index", "learning/wal", "x/learning", "deleted/x", "embed-token/t", "plain",
]  # fmt: skip
SOME_VALUES = [
    "nil", "{}", "5", '{:session/id "s" :owner :ada :members #{:ada :alan} :created-at 1}', "{:owner :alan :created-at 2}",
    "{:ada {:user-id :ada :last-seen 1}}", "{:ada {:last-seen 2} :alan {}}", "{:alan {} :grace {:x 1} 1 2}",
    '{"p" {:project/id "p" :project/created-at 1} "q" {:project/id "x"}}', '{"p" {:project/created-at 2}}',
    '{"t" #{"x" "y"} "u" #{}}', '{"t" #{"y"} "v" #{"z"}}', '{:learning/id "l" :learning/tags #{"t"}}',
    '{:learning/id "l" :learning/tags #{"u" "t"} :learning/status :deleted}', '{:expires #inst "2020-01-01" :token "t"}',
]  # fmt: skip
memories = st.dictionaries(
    st.sampled_from([kw(k) for k in SOME_KEYS]),
    st.sampled_from([read_edn(v) for v in SOME_VALUES]) | values,
    max_size=8,
)


ORPHANS = """
[:find [?e ...]
 :where (or [?e :session/id] [?e :presence/user] [?e :project/id] [?e :learning/id] [?e :tag/name] [?e :cache/key])
        (not [_ :memory/entity ?e])]"""


@settings(max_examples=int(os.environ.get("IMPORT_SEQUENCES", "15")))
@given(st.lists(memories, min_size=2, max_size=5))
def test_any_sequence_of_memories(sequence):
    """Whatever was there before, after an import the database holds the memory, and no entity that no key refers to."""
    with d.connect(None) as conn:
        for number, wanted in enumerate(sequence):
            import_memory(conn, wanted, BUILTIN, chunk=3)
            outcome = verify(conn.db(), BUILTIN, wanted)
            assert outcome.equal, report.verification_text(outcome)
            few = fetch(conn.db(), BUILTIN, list(wanted))
            assert all(strict_equal(few[k].value(BUILTIN), v) for k, v in wanted.items()), number
            assert conn.q(ORPHANS) == []


# -- interruptions and other writers


def test_resume_after_an_interruption(conn):
    """An import that stops half way goes on where it stopped."""
    file = read_memory(EXAMPLE)

    def stop(step, done, _):
        if step == "load new keys" and done >= 200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_memory(conn, file, BUILTIN, progress=stop, chunk=50)
    done = import_memory(conn, file, BUILTIN, chunk=50)
    assert done.added == len(file) - 200
    assert done.unchanged == 200
    assert verify(conn.db(), BUILTIN, file).equal


SLOW_IMPORT = """
import sys, time
import datalog as d
from migration.importer import import_memory
from migration.keymap import builtin
from migration.source import read_memory

def tell(step, done, of):
    print(step, done, flush=True)
    time.sleep(0.01)

import_memory(d.connect(sys.argv[1]), read_memory(sys.argv[2]), builtin(), progress=tell, chunk=20)
"""


def test_resume_after_a_kill(tmp_path):
    """A process killed while it imports leaves a sound database, which the next import completes."""
    path = tmp_path / "db"
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW_IMPORT, str(path), str(EXAMPLE)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("load new keys 1"):
            break
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert check_path(path)[0] == []
    with d.connect(path) as conn:
        file = read_memory(EXAMPLE)
        done = import_memory(conn, file, BUILTIN)
        assert 0 < done.unchanged < len(file)
        assert verify(conn.db(), BUILTIN, file).equal


def test_another_writer_of_new_keys(conn, monkeypatch):
    """A key that another writer adds between reading and loading is not added twice, but brought up to date."""
    real = entities._reserve

    def meanwhile(connection, n, note):
        monkeypatch.setattr(entities, "_reserve", real)
        of = entities.Changes(connection.db(), BUILTIN)
        of.new(kw("a"), 0)
        connection.transact(of.finished())
        return real(connection, n, note)

    monkeypatch.setattr(entities, "_reserve", meanwhile)
    import_memory(conn, memory(":a 1 :b 2 :c 3"), BUILTIN)
    import_memory(conn, memory(":a 1 :b 2 :c 3"), BUILTIN)
    assert verify(conn.db(), BUILTIN, memory(":a 1 :b 2 :c 3")).equal


def test_another_writer_of_changes(conn, monkeypatch):
    """A change is built on what is there when it is written: who was slower builds it anew."""
    bring(conn, ":presence/s {:ada {:last-seen 1}}")
    real = importer.fetch

    def meanwhile(db, keymap, keys):
        found = real(db, keymap, keys)
        monkeypatch.setattr(importer, "fetch", real)
        of = entities.Changes(db, BUILTIN)
        of.put(found[kw("presence/s")], kw("presence/s"), read_edn("{:alan {:last-seen 2}}"))
        conn.transact(of.finished())
        return found

    monkeypatch.setattr(importer, "fetch", meanwhile)
    bring(conn, ":presence/s {:ada {:last-seen 3}}")
    assert stored(conn, "presence/s").state.version == 3
    assert conn.q("[:find [?u ...] :where [_ :presence/user ?u]]") == [kw("ada")]


def test_new_key_twice(conn):
    """Two transactions that both add a key as new: the second fails instead of mixing entities."""
    bring(conn, ":z 1")
    first, second = (entities.Changes(conn.db(), BUILTIN) for _ in range(2))
    first.new(kw("a"), 1)
    second.new(kw("a"), 2)
    conn.transact(first.finished())
    with pytest.raises(TransactionError) as caught:
        conn.transact(second.finished())
    assert caught.value.code == "tx/cas"


# -- verification


def test_findings(conn):
    """Every way in which the two sides can differ has its finding, with the path of the first difference."""
    bring(conn, ':a 1 :b {:learning/id "x" :learning/title "t" :learning/more {:deep [1 2]}} :c 2 :d {:x 1} :e 5')
    wanted = memory(
        ':a 1.0 :b {:learning/id "x" :learning/title "t" :learning/more {:deep [1 3]}} :d ^:m {:x 1} :e 5 :new nil'
    )
    broken = conn.q("[:find ?e . :where [?k :memory/key :e] [?k :memory/entity ?e]]")
    conn.transact([[":db/retract", broken, ":cache/value"]])
    outcome = verify(conn.db(), BUILTIN, wanted)
    assert not outcome.equal
    assert outcome.counts == {"different": 3, "missing": 1, "extra": 1, "damaged": 1}
    found = {str(f.key): f.as_dict() for f in outcome.findings}
    assert (found[":a"]["path"], found[":a"]["wanted"], found[":a"]["found"]) == ([], "1.0", "1")
    assert found[":b"]["path"] == [":learning/more", ":deep", "1"]
    assert "metadata" in found[":d"]["message"]
    assert found[":new"]["what"] == "missing"
    assert found[":c"]["what"] == "extra"
    assert outcome.memory_digest != outcome.database_digest
    text = report.verification_text(outcome)
    assert "at :learning/more :deep 1" in text


def test_stale_digest(conn):
    """A value that was changed past the mapping is found, even where the values are equal again."""
    bring(conn, ":a 1")
    key = conn.q("[:find ?k . :where [?k :memory/key :a]]")
    conn.transact([[":db/add", key, ":memory/digest", 7]])
    outcome = verify(conn.db(), BUILTIN, memory(":a 1"))
    assert outcome.counts == {"stale": 1}
    assert not outcome.equal


def test_empty_database(conn):
    """A database that never saw an import lacks every key."""
    outcome = verify(conn.db(), BUILTIN, memory(":a 1 :b 2"))
    assert outcome.counts == {"missing": 2}
    assert verify(conn.db(), BUILTIN, memory("")).equal


@given(values, values)
def test_first_difference(a, b):
    """There is a first difference exactly when two values are not strictly equal."""
    assert (first_difference(a, b) is None) == strict_equal(a, b)


# -- files that cannot be used

UNREADABLE = [
    (b"{:a 1", "edn/", 1),
    (b"{:a 1\n :b #{1 1}}", "edn/duplicate-member", 2),
    (b"{:a 1}\n{:b 2}", "edn/", 2),
    (b"[:a 1]", "memory/no-map", 1),
    (b'{:a 1\n "b" 2}', "memory/key", 2),
    (b"{:a 1\n :b 2 sym 3}", "memory/key", 2),
    (b"{:a \xff}", "edn/bad-encoding", None),
    (b"", "edn/", None),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "code", "line"), UNREADABLE, ids=[repr(raw) for raw, _, _ in UNREADABLE])
def test_unreadable_files(tmp_path, raw, code, line):
    """A file that is no memory stops everything, with its name and the place."""
    file = tmp_path / "memory.edn"
    file.write_bytes(raw)
    with pytest.raises((EdnError, KeyMapError)) as caught:
        read_memory(file)
    assert caught.value.code.startswith(code)
    assert str(file) in str(caught.value)
    if line is not None:
        assert caught.value.span.line == line
    assert file.read_bytes() == raw


def test_no_file(tmp_path):
    """A file that is not there, or is a directory, is an error of the library."""
    for path in (tmp_path / "none.edn", tmp_path):
        with pytest.raises(EdnError) as caught:
            read_memory(path)
        assert caught.value.code == "memory/unreadable"


def test_schema_in_the_way(conn):
    """An attribute that the application declared with another type is refused before anything is written."""
    conn.update_schema({":tag/name": {":db/valueType": ":db.type/long"}})
    with pytest.raises(KeyMapError) as caught:
        import_memory(conn, memory(":a 1"), BUILTIN)
    assert caught.value.code == "keymap/schema"
    assert ":memory/key" not in conn.schema


def test_another_mapping_maps_anew(conn):
    """When the mapping changes, an import brings unchanged values into their new form."""
    bring(conn, ":user/ada {:theme :dark} :b 2")
    own = BUILTIN.extended(
        """{:schema [{:db/ident :user/theme :db/valueType :db.type/keyword}]
            :rules [{:kind :user :data :user :match {:namespace "user"} :entity {:given {} :parts {:theme :user/theme}}}]}"""
    )
    wanted = memory(":user/ada {:theme :dark} :b 2")
    done = import_memory(conn, wanted, own)
    assert (done.changed, done.unchanged) == (1, 1)
    assert conn.q("[:find ?t . :where [_ :user/theme ?t]]") == kw("dark")
    assert verify(conn.db(), own, wanted).equal


def test_reports_as_data(conn):
    """Reports are JSON and EDN, too."""
    done = bring(conn, ":a 1 :presence/x 5")
    data = done.as_dict()
    assert '"fell_to_generic": {' in report.as_json(data)
    edn = read_edn(report.as_edn(data))
    assert edn[kw("coverage")][kw("fell-to-generic")] == Map([(kw("presence"), 1)])
    assert "1 of :presence have another shape" in report.import_text(done)


def test_time_of_a_single_key(conn):
    """A few keys are fetched by lookups, not by scans of everything."""
    import_memory(conn, read_memory(EXAMPLE), BUILTIN)
    db = conn.db()
    fetch(db, BUILTIN, [kw("config")])
    began = time.perf_counter()
    for _ in range(10):
        assert list(fetch(db, BUILTIN, [kw("config")])) == [kw("config")]
    assert time.perf_counter() - began < 1
