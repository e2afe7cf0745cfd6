"""The mapping of memory keys: which rule takes a key, what it becomes, that every value comes back, what is refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_edn import values

from migration.keymap import KeyMap, builtin
from migration.rules import KEY_ATTRIBUTES
from migration.source import read_memory
from store.edn import Keyword, Map, Set, read_edn, strict_equal
from store.errors import KeyMapError

BUILTIN = builtin()
EXAMPLE = Path(__file__).parent.parent / "examples" / "memory.edn"


kw = Keyword


# key, value, the rule that maps it: namespace and name decide, then the shape of the value
KINDS = [
    (":collab-session/s1", "{}", "session"),
    (":collab-session/s1", "nil", "cache"),
    (":collab-session/s1", "[1]", "cache"),
    (":collab-session/s1", "^:meta {:session/id 1}", "cache"),
    (":collab-session/s1", "{[1] 2}", "cache"),
    (":collab-session.3/s1", "{}", "cache"),
    (":collab-session", "{}", "cache"),
    (":collab-sessions/s1", "{}", "cache"),
    (":presence/s1", "{}", "presence"),
    (":presence/s1", "{:ada {}}", "presence"),
    (":presence/s1", "{:ada 1}", "cache"),
    (":presence/s1", "{:ada 1 :alan {}}", "presence"),
    (":presence/s1", "5", "cache"),
    (":presence.5/x", "{:ada {}}", "cache"),
    (":presence", "{:ada {}}", "cache"),
    (":Presence/x", "{:ada {}}", "cache"),
    (":projects/ada", '{"p" {}}', "project"),
    (":projects/ada", "{:p {}}", "cache"),
    (":builder-sessions/ada", '{"h" {:session/id "h"}}', "builder-session"),
    (":learning/x", "{}", "learning"),
    (":learning/x", "#{}", "cache"),
    (":learning-7", '{:learning/id "x"}', "learning"),
    (":ada/slug", '{:learning/id "x"}', "learning"),
    (":ada/slug", "{:learning/id nil}", "learning"),
    (":ada/slug", "{:learning/title 1}", "cache"),
    (":learning/tag-index", '{"t" #{"x"}}', "tag-index"),
    (":learning/tag-index", '{"t" #{}}', "tag-index"),
    (":learning/tag-index", '{:t #{"x"}}', "cache"),
    (":learning/tag-index", '{"t" ["x"]}', "cache"),
    (":learning/index", "{}", "index"),
    (":learning/review-index", "nil", "index"),
    (":learning/wal", "[]", "index"),
    (":other/tag-index", '{"t" #{"x"}}', "cache"),
    (":deleted/x", "{}", "deleted-learning"),
    (":deleted/x", "nil", "cache"),
    (":deleted.1/x", "{}", "cache"),
    (":embed-token/9f-1", "nil", "embed-token"),
    (":embed-token/9f-1", "{:expires 5}", "embed-token"),
    (":embed-tokens/x", "{}", "cache"),
    (":webhook/w", "5", "webhook"),
    (":webhooks/x1", "{}", "cache"),
    (":a.b.c/k5'", "{}", "cache"),
    (":config", "{}", "cache"),
]


@pytest.mark.parametrize(("key", "value", "kind"), KINDS, ids=[f"{k} {v}" for k, v, _ in KINDS])
def test_kind(key, value, kind):
    """Namespace and name choose the rule, never a prefix; an unexpected shape goes to the generic rule."""
    key, value = read_edn(key), read_edn(value)
    mapped = BUILTIN.encoded(key, value)
    assert mapped.rule.kind is kw(kind)
    assert strict_equal(BUILTIN.decoded(mapped), value)


# key, value, JSON that is left, facts of the entities
BECOMES = [
    (
        ":collab-session/s1",
        '{:session/id "s1" :owner :ada :members #{:ada} :created-at 5 :open? false :history [{:at 1}]}',
        '{"~:history":[{"~:at":1}]}',
        '[{:session/id "s1" :session/owner :ada :session/members [:ada] :session/created-at 5 :session/open? false}]',
    ),
    (
        ":collab-session/s1",
        '{:session/id :s1 :owner "ada" :members #{} :created-at 5.0 :open? nil}',
        '{"~:created-at":5.0,"~:members":["~#set",[]],"~:open?":null,"~:owner":"ada","~:session/id":"~:s1"}',
        '[{:session/id "s1"}]',
    ),
    (
        ":collab-session/s1",
        "{:owner :ada}",
        '["~#lacks",["~:session/id"],{}]',
        '[{:session/id "s1" :session/owner :ada}]',
    ),
    (
        ":presence/s1",
        '{:ada {:user-id :ada :color "#fff" :cursor {:x 1}} "guest" {:x 2}}',
        '{"guest":{"~:x":2},"~:ada":{"~:cursor":{"~:x":1}}}',
        '[{:presence/user :ada :presence/color "#fff"}]',
    ),
    (":presence/s1", "{:ada {}}", '{"~:ada":["~#lacks",["~:user-id"],{}]}', "[{:presence/user :ada}]"),
    (
        ":projects/ada",
        '{"p" {:project/id "p" :project/name "N" :project/sections {:a 1}} "q" {:project/id "r"}}',
        '{"p":{"~:project/sections":{"~:a":1}},"q":{"~:project/id":"r"}}',
        '[{:project/id "p" :project/name "N"} {:project/id "q"}]',
    ),
    (
        ":builder-sessions/ada",
        '{"h" {:session/id "h" :session/project-id "p" :step 3 :done? true}}',
        None,
        """[{:builder-session/id "h" :builder-session/user :ada :builder-session/project "p" :builder-session/step 3
             :builder-session/done? true}]""",
    ),
    (
        ":ada/slug",
        '{:learning/id "x" :learning/tags #{"t"} :learning/confidence 3 :learning/insights ["i"]}',
        '{"~:learning/insights":["i"]}',
        '[{:learning/id "x" :learning/confidence 3 :learning/tags ["t"]}]',
    ),
    (":learning/x", "{}", '["~#lacks",["~:learning/id"],{}]', '[{:learning/id "x"}]'),
    (
        ":deleted/x",
        '{:learning/id "y" :learning/status :active}',
        '{"~:learning/status":"~:active"}',
        '[{:learning/id "y" :learning/status :deleted}]',
    ),
    (
        ":deleted/x",
        '{:learning/id "y" :learning/status :deleted}',
        None,
        '[{:learning/id "y" :learning/status :deleted}]',
    ),
    (
        ":learning/tag-index",
        '{"a" #{"x"} "b" #{} "c" #{:x}}',
        '{"c":["~#set",["~:x"]]}',
        '[{:tag/name "a" :tag/count 1 :tag/learning ["x"]} {:tag/name "b" :tag/count 0}]',
    ),
    (
        ":embed-token/t",
        '{:token "t" :expires #inst "2020-01-01"}',
        None,
        """[{:cache/key :embed-token/t :cache/type :embed-token :cache/expires #inst "2020-01-01"
             :cache/value "{\\"~:token\\":\\"t\\"}"}]""",
    ),
    (":k", "nil", None, '[{:cache/key :k :cache/type :generic :cache/value "null"}]'),
]


@pytest.mark.parametrize(("key", "value", "rest", "facts"), BECOMES, ids=[f"{k} {v}" for k, v, _, _ in BECOMES])
def test_becomes(key, value, rest, facts):
    """A value becomes exactly these attributes and this JSON, and they become the value."""
    key, value = read_edn(key), read_edn(value)
    mapped = BUILTIN.encoded(key, value)
    assert mapped.rest == rest
    wanted = [{str(k): v for k, v in entity.items()} for entity in read_edn(facts)]
    assert strict_equal(mapped.entities, wanted)
    assert strict_equal(BUILTIN.decoded(mapped), value)


PARTS = sorted(
    {p.part for r in BUILTIN.rules for p in r.parts} | {g.part for r in BUILTIN.rules for g in r.given if g.part}
)
KEYS = [read_edn(k) for k in sorted({k for k, _, _ in KINDS})]
ODD = [kw("ada"), kw("deleted"), "ada", "s1", "x", 1, 1.0, True, False, None, -0.0, 2**63]
ODD += [Set(), Set([kw("a")]), Set(["a"]), Set(["a", 1])]
likely = st.sampled_from(ODD) | values
flat_maps = st.dictionaries(st.sampled_from(PARTS), likely, max_size=6).map(Map)
nested_maps = st.lists(st.tuples(likely, flat_maps | likely), max_size=4).map(Map)


@given(st.sampled_from(KEYS), flat_maps | nested_maps | values)
def test_every_value_comes_back(key, value):
    """Under every rule, whatever the parts hold: the value is rebuilt strictly equal."""
    mapped = BUILTIN.encoded(key, value)
    assert strict_equal(BUILTIN.decoded(mapped), value)


def test_every_attribute_is_used():
    """The built-in schema and the attributes that its rules write are the same set."""
    declared = {str(a[kw("db/ident")]) for a in BUILTIN.schema}
    assert declared == BUILTIN.attributes_used()
    assert set(KEY_ATTRIBUTES) <= declared


def test_example_is_covered():
    """The example memory has keys of every kind, values of unexpected shape among them, and every one comes back."""
    coverage = BUILTIN.checked(read_memory(EXAMPLE), sample=0)
    assert {rule.kind for rule in BUILTIN.rules} == set(coverage.by_kind)
    assert coverage.tried == coverage.keys == sum(coverage.by_kind.values())
    assert sum(coverage.fell.values()) > 5
    assert coverage.collisions == []
    assert coverage.unequal == []


def test_digest_is_stable():
    """The digest of a key and value is the same for ever: it is compared with what databases keep."""
    mapped = BUILTIN.encoded(kw("a/b"), read_edn("{:b #{1 1.0} :a [nil]}"))
    assert mapped.digest == BUILTIN.encoded(kw("a/b"), read_edn("{:a [nil] :b #{1.0 1}}")).digest
    assert mapped.digest != BUILTIN.encoded(kw("a/c"), read_edn("{:a [nil] :b #{1.0 1}}")).digest
    assert mapped.digest == 3096821354014052756


def test_own_rules():
    """An application puts rules in front of the built-in ones, as EDN."""
    keymap = BUILTIN.extended(
        """{:schema [{:db/ident :user/theme :db/valueType :db.type/keyword}
                     {:db/ident :user/name :db/valueType :db.type/string :db/unique :db.unique/identity}]
            :rules [{:kind :user :data :user :match {:namespace "user"}
                     :entity {:given {:user/name {:from :name}} :parts {:theme :user/theme}}}]}"""
    )
    mapped = keymap.encoded(kw("user/ada"), read_edn("{:theme :dark :size 12}"))
    assert mapped.entities == [{":user/name": "ada", ":user/theme": kw("dark")}]
    assert mapped.rest == '{"~:size":12}'
    assert keymap.encoded(kw("presence/x"), Map()).rule.kind is kw("presence")
    assert keymap.digest != BUILTIN.digest


def test_collisions_are_found():
    """Two keys that would meet in one entity by a unique attribute are named before anything is written."""
    keymap = BUILTIN.extended(
        """{:schema [{:db/ident :user/name :db/valueType :db.type/string :db/unique :db.unique/identity}]
            :rules [{:kind :user :data :user :match {:or-part :name}
                     :entity {:given {:user/name {:from :name :part :name :prefer :part}}}}]}"""
    )
    coverage = keymap.checked({kw("a"): Map([(kw("name"), "x")]), kw("b"): Map([(kw("name"), "x")])})
    assert coverage.collisions == [(":user/name", "x", kw("a"), kw("b"))]


WRONG = [
    ("[]", "is no key mapping"),
    ("{:schema [] :rules []}", "There are no rules."),
    ("{:schema [1] :rules []}", "declares no attribute"),
    ("{:schema [] :rules [1]}", "1 is no map"),
    ("{:schema [] :rules [{:kind 1}]}", ":kind and :data must be keywords"),
    ("{:schema [] :rules [{:kind :a :data :a :match {}}]}", "give either :entity or :entries"),
    (
        "{:schema [] :rules [{:kind :a :data :a :match {:name 1} :entity {}}]}",
        ":name is not known here; did you mean :namespace?",
    ),
    (
        "{:schema [] :rules [{:kind :a :data :a :match {} :entity {:parts {:x :a/b}}}]}",
        ":a/b is no attribute of the schema",
    ),
    ("{:schema [] :rules [{:kind :a :data :a :match {} :entries {}}]}", "{:from :entry}"),
    ("{:schema [] :rules [{:kind :a :data :a :match {} :entity {}}]}", "does not take every key and value"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[t for t, _ in WRONG])
def test_wrong_mappings(text, message):
    """A mapping that is not of the grammar is refused with what is wrong with it."""
    with pytest.raises(KeyMapError) as caught:
        KeyMap.read(text)
    assert message in str(caught.value)


WRONG_RULES = [
    (":given {:session/id {:from :nowhere}}", "give :always and a value, or :from one of"),
    (":given {:session/id {:always :a}}", ":a is not of its type"),
    (":given {} :identity :session/type", "must be unique"),
    (":given {} :rest :session/type", ":session/type must be of :db.type/string"),
    (":given {} :parts {:a :session/type :b :session/type}", ":session/type is given two values"),
    (":given {} :parts {:a {:attr :session/members :once true}}", "cannot be written once"),
    (":given {} :parts {:a :session/presence}", "parts cannot be of :db.type/ref"),
    (':given {} :parts {"a" :session/type}', "a part must be a keyword"),
    (":given {} :parts {:a :session/tpye}", "did you mean :session/type?"),
    (":given {:session/type {:always :x :part :a}} :parts {:a :session/owner}", "two attributes for the part :a"),
]


@pytest.mark.parametrize(("body", "message"), WRONG_RULES, ids=[b for b, _ in WRONG_RULES])
def test_wrong_rules(body, message):
    """A rule that does not fit the schema, or itself, is refused with the names in it."""
    with pytest.raises(KeyMapError) as caught:
        BUILTIN.extended(f"{{:rules [{{:kind :own :data :own :match {{}} :entity {{{body}}}}}]}}")
    assert message in str(caught.value)


def test_unknown_kind():
    """A kind in the database that the mapping does not have is an error that says what to do."""
    with pytest.raises(KeyMapError) as caught:
        BUILTIN.rule_named(kw("sesion"))
    assert caught.value.code == "keymap/kind"
    assert ":session" in str(caught.value)
