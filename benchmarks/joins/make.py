"""Seeded movies, persons, credits, genres and companies; ten questions of 3 to 10 joins."""

from __future__ import annotations

from typing import Any

import numpy as np
from workload import Query, Table, Workload

MOVIES, PERSONS, COMPANIES, CREDITS = 100_000, 150_000, 5_000, 350_000
GENRES = [
    "drama", "comedy", "documentary", "action", "romance", "thriller", "crime", "horror", "adventure", "family",
    "mystery", "fantasy", "animation", "biography", "history", "music", "war", "western", "sport", "film-noir",
]  # fmt: skip
COUNTRIES = ["us", "gb", "fr", "de", "it", "jp", "in", "es", "se", "br", "kr", "pl"]
KINDS = ["feature", "short", "series", "video"]
ROLES = ["actor", "actress", "director", "writer", "producer"]
STRING = {":db/valueType": ":db.type/string"}
LONG = {":db/valueType": ":db.type/long"}
DOUBLE = {":db/valueType": ":db.type/double"}
REF = {":db/valueType": ":db.type/ref"}
REFS = {**REF, ":db/cardinality": ":db.cardinality/many"}
SCHEMA = {
    ":movie/title": STRING, ":movie/year": LONG, ":movie/kind": STRING, ":movie/rating": DOUBLE, ":movie/votes": LONG,
    ":movie/genre": REFS, ":movie/company": REFS, ":genre/name": STRING, ":company/name": STRING,
    ":company/country": STRING, ":person/name": STRING, ":person/gender": STRING, ":person/born": LONG,
    ":credit/movie": REF, ":credit/person": REF, ":credit/role": STRING,
}  # fmt: skip


def zipf(r: Any, n: int, size: int, skew: float = 0.8) -> Any:
    """`size` numbers below n, the low ones more often, shuffled over the ids."""
    weights = 1.0 / np.arange(1, n + 1) ** skew
    picks = np.searchsorted(np.cumsum(weights) / weights.sum(), r.random(size))
    return r.permutation(n)[np.minimum(picks, n - 1)]


def make(scale: float = 1.0) -> Workload:
    """The workload at a scale: 1 is 2.4 million datoms, 10 is 24 million."""
    r = np.random.default_rng(29)
    movies, persons, companies, credits_ = (max(60, int(n * scale)) for n in (MOVIES, PERSONS, COMPANIES, CREDITS))
    genre_ids = np.arange(1, len(GENRES) + 1)
    company_ids = np.arange(1, companies + 1) + 100
    movie_ids = np.arange(1, movies + 1) + int(company_ids[-1])
    person_ids = np.arange(1, persons + 1) + int(movie_ids[-1])
    credit_ids = np.arange(1, credits_ + 1) + int(person_ids[-1])

    country = [COUNTRIES[i] for i in np.minimum(r.geometric(0.3, companies) - 1, 11)]
    year = (2024 - np.minimum(r.exponential(25, movies), 120)).astype(np.int64)
    kind = [KINDS[i] for i in r.choice(4, movies, p=[0.55, 0.25, 0.12, 0.08])]
    rating = np.round(np.clip(r.normal(6.3, 1.3, movies), 1, 10), 1)
    votes = np.minimum((r.pareto(0.7, movies) * 40 + 5).astype(np.int64), 3_000_000)
    born = (2000 - np.minimum(r.exponential(35, persons), 150)).astype(np.int64)
    gender = [("m", "f")[i] for i in r.integers(0, 2, persons)]
    titles = [f"Movie {i}" for i in range(movies)]
    names = [f"Person {i}" for i in range(persons)]

    genre_pairs = _pairs(
        movie_ids[r.integers(0, movies, 2 * movies)], genre_ids[np.minimum(r.geometric(0.15, 2 * movies) - 1, 19)]
    )
    company_pairs = _pairs(
        movie_ids[r.integers(0, movies, 3 * movies // 2)], company_ids[zipf(r, companies, 3 * movies // 2)]
    )
    credit_movie = movie_ids[zipf(r, movies, credits_, 0.6)]
    credit_person = person_ids[zipf(r, persons, credits_, 0.7)]
    role = [ROLES[i] for i in r.choice(5, credits_, p=[0.4, 0.25, 0.13, 0.12, 0.1])]

    columns = {
        ":movie/title": (movie_ids, titles), ":movie/year": (movie_ids, year), ":movie/kind": (movie_ids, kind),
        ":movie/rating": (movie_ids, rating), ":movie/votes": (movie_ids, votes),
        ":movie/genre": genre_pairs, ":movie/company": company_pairs,
        ":genre/name": (genre_ids, GENRES), ":company/name": (company_ids, [f"Company {i}" for i in range(companies)]),
        ":company/country": (company_ids, country), ":person/name": (person_ids, names),
        ":person/gender": (person_ids, gender), ":person/born": (person_ids, born),
        ":credit/movie": (credit_ids, credit_movie), ":credit/person": (credit_ids, credit_person),
        ":credit/role": (credit_ids, role),
    }  # fmt: skip
    tables = [
        Table("genre", {"id": ("integer", genre_ids.tolist()), "name": ("text", GENRES)}, ("id",), ("name",)),
        Table(
            "company",
            {"id": ("integer", company_ids.tolist()), "name": ("text", columns[":company/name"][1]), "country": ("text", country)},
            ("id",), ("name", "country"),
        ),
        Table(
            "movie",
            {
                "id": ("integer", movie_ids.tolist()), "title": ("text", titles), "year": ("integer", year.tolist()),
                "kind": ("text", kind), "rating": ("double", rating.tolist()), "votes": ("integer", votes.tolist()),
            },
            ("id",), ("title", "year", "kind", "rating", "votes"),
        ),
        Table(
            "person",
            {"id": ("integer", person_ids.tolist()), "name": ("text", names), "gender": ("text", gender), "born": ("integer", born.tolist())},
            ("id",), ("name", "gender", "born"),
        ),
        Table(
            "credit",
            {
                "id": ("integer", credit_ids.tolist()), "movie": ("integer", credit_movie.tolist()),
                "person": ("integer", credit_person.tolist()), "role": ("text", role),
            },
            ("id",), ("movie, role, person", "person, role, movie", "role"),
        ),
        Table(
            "movie_genre",
            {"movie": ("integer", genre_pairs[0].tolist()), "genre": ("integer", genre_pairs[1].tolist())},
            ("movie", "genre"), ("genre, movie",),
        ),
        Table(
            "movie_company",
            {"movie": ("integer", company_pairs[0].tolist()), "company": ("integer", company_pairs[1].tolist())},
            ("movie", "company"), ("company, movie",),
        ),
    ]  # fmt: skip
    star = f"Person {int(np.bincount(credit_person - person_ids[0], minlength=persons).argmax())}"
    return Workload("joins", SCHEMA, columns, tables, _questions(star))


def _pairs(a: Any, b: Any) -> tuple[Any, Any]:
    """Distinct pairs, sorted."""
    packed = np.unique(a.astype(np.int64) << 32 | b)
    return packed >> 32, packed & 0xFFFFFFFF


def _questions(star: str) -> list[Query]:
    """The ten questions; `star` is the name of the person with the most credits."""
    return [
        Query(
            "j1 cast of a year's best",
            """[:find ?name :where [?m :movie/year 1994] [?m :movie/rating ?r] [(> ?r 8.5)]
                [?c :credit/movie ?m] [?c :credit/person ?p] [?p :person/name ?name]]""",
            """select distinct p.name from movie m join credit c on c.movie = m.id join person p on p.id = c.person
               where m.year = 1994 and m.rating > 8.5""",
        ),
        Query(
            "j2 old directors of one genre",
            """[:find ?title ?name :where [?g :genre/name "film-noir"] [?m :movie/genre ?g] [?m :movie/title ?title]
                [?c :credit/movie ?m] [?c :credit/role "director"] [?c :credit/person ?p]
                [?p :person/born ?b] [(< ?b 1930)] [?p :person/name ?name]]""",
            """select distinct m.title, p.name from genre g join movie_genre mg on mg.genre = g.id
               join movie m on m.id = mg.movie join credit c on c.movie = m.id and c.role = 'director'
               join person p on p.id = c.person where g.name = 'film-noir' and p.born < 1930""",
        ),
        Query(
            "j3 actors by country",
            """[:find ?country (count-distinct ?p) :where [?m :movie/year ?y] [(>= ?y 2015)] [?m :movie/company ?co]
                [?co :company/country ?country] [?c :credit/movie ?m] [?c :credit/role "actor"] [?c :credit/person ?p]]""",
            """select co.country, count(distinct c.person) from movie m join movie_company mc on mc.movie = m.id
               join company co on co.id = mc.company join credit c on c.movie = m.id
               where m.year >= 2015 and c.role = 'actor' group by co.country""",
        ),
        Query(
            "j4 who played with the star",
            """[:find ?other :in $ ?star :where [?p :person/name ?star] [?c1 :credit/person ?p] [?c1 :credit/movie ?m]
                [?m :movie/rating ?r] [(> ?r 7.0)] [?c2 :credit/movie ?m] [?c2 :credit/person ?q]
                [(!= ?p ?q)] [?q :person/name ?other]]""",
            """select distinct q.name from person p join credit c1 on c1.person = p.id join movie m on m.id = c1.movie
               join credit c2 on c2.movie = m.id join person q on q.id = c2.person
               where p.name = ? and m.rating > 7.0 and q.id != p.id""",
            inputs=(star,),
        ),
        Query(
            "j5 never directed",
            """[:find ?name :where [?g :genre/name "horror"] [?m :movie/genre ?g] [?m :movie/votes ?v] [(> ?v 10000)]
                [?c :credit/movie ?m] [?c :credit/role "actor"] [?c :credit/person ?p] [?p :person/name ?name]
                (not-join [?p] [?d :credit/person ?p] [?d :credit/role "director"])]""",
            """select distinct p.name from genre g join movie_genre mg on mg.genre = g.id join movie m on m.id = mg.movie
               join credit c on c.movie = m.id join person p on p.id = c.person
               where g.name = 'horror' and m.votes > 10000 and c.role = 'actor'
               and not exists (select 1 from credit d where d.person = p.id and d.role = 'director')""",
        ),
        Query(
            "j6 old or short, from France",
            """[:find ?genre (count ?m) :where [?co :company/country "fr"] [?m :movie/company ?co] [?m :movie/genre ?g]
                [?g :genre/name ?genre] (or-join [?m] (and [?m :movie/year ?y] [(< ?y 1950)]) [?m :movie/kind "short"])]""",
            """select g.name, count(distinct m.id) from company co join movie_company mc on mc.company = co.id
               join movie m on m.id = mc.movie join movie_genre mg on mg.movie = m.id join genre g on g.id = mg.genre
               where co.country = 'fr' and (m.year < 1950 or m.kind = 'short') group by g.name""",
        ),
        Query(
            "j7 ratings by genre",
            """[:find ?genre (avg ?r) (count ?m) :where [?m :movie/kind "feature"] [?m :movie/rating ?r]
                [?m :movie/votes ?v] [(> ?v 1000)] [?m :movie/genre ?g] [?g :genre/name ?genre]]""",
            """select g.name, avg(m.rating), count(*) from movie m join movie_genre mg on mg.movie = m.id
               join genre g on g.id = mg.genre where m.kind = 'feature' and m.votes > 1000 group by g.name""",
        ),
        Query(
            "j8 directed themselves",
            """[:find ?name ?title :where [?g :genre/name "comedy"] [?m :movie/genre ?g] [?m :movie/year ?y] [(<= 1980 ?y 2010)]
                [?m :movie/rating ?r] [(> ?r 6.0)] [?m :movie/company ?co] [?co :company/country "us"]
                [?c1 :credit/movie ?m] [?c1 :credit/role "director"] [?c1 :credit/person ?p]
                [?c2 :credit/movie ?m] [?c2 :credit/person ?p] [?c2 :credit/role "actor"]
                [?p :person/name ?name] [?m :movie/title ?title]]""",
            """select distinct p.name, m.title from genre g join movie_genre mg on mg.genre = g.id
               join movie m on m.id = mg.movie join movie_company mc on mc.movie = m.id join company co on co.id = mc.company
               join credit c1 on c1.movie = m.id and c1.role = 'director'
               join credit c2 on c2.movie = m.id and c2.person = c1.person and c2.role = 'actor'
               join person p on p.id = c1.person
               where g.name = 'comedy' and m.year between 1980 and 2010 and m.rating > 6.0 and co.country = 'us'""",
        ),
        Query(
            "j9 same pair in two films",
            """[:find ?dn ?an :where [?g1 :genre/name "drama"] [?m1 :movie/genre ?g1] [?g2 :genre/name "thriller"] [?m2 :movie/genre ?g2]
                [?d1 :credit/movie ?m1] [?d1 :credit/role "director"] [?d1 :credit/person ?d]
                [?d2 :credit/movie ?m2] [?d2 :credit/role "director"] [?d2 :credit/person ?d]
                [?a1 :credit/movie ?m1] [?a1 :credit/role "actor"] [?a1 :credit/person ?a]
                [?a2 :credit/movie ?m2] [?a2 :credit/role "actor"] [?a2 :credit/person ?a]
                [?m1 :movie/year ?y1] [?m2 :movie/year ?y2] [(< ?y1 ?y2)]
                [?d :person/name ?dn] [?a :person/name ?an]]""",
            """select distinct pd.name, pa.name from genre g1 join movie_genre mg1 on mg1.genre = g1.id
               join movie m1 on m1.id = mg1.movie
               join credit d1 on d1.movie = m1.id and d1.role = 'director'
               join credit d2 on d2.person = d1.person and d2.role = 'director'
               join movie m2 on m2.id = d2.movie join movie_genre mg2 on mg2.movie = m2.id
               join genre g2 on g2.id = mg2.genre
               join credit a1 on a1.movie = m1.id and a1.role = 'actor'
               join credit a2 on a2.movie = m2.id and a2.person = a1.person and a2.role = 'actor'
               join person pd on pd.id = d1.person join person pa on pa.id = a1.person
               where g1.name = 'drama' and g2.name = 'thriller' and m1.year < m2.year""",
        ),
        Query(
            "j10 ten ways",
            """[:find ?an ?dn ?con :where [?co :company/country "jp"] [?co :company/name ?con] [?m :movie/company ?co]
                [?m :movie/genre ?g] [?g :genre/name "crime"] [?m :movie/year ?y] [(> ?y 1990)]
                [?m :movie/rating ?r] [(> ?r 7.5)]
                [?c1 :credit/movie ?m] [?c1 :credit/role "actress"] [?c1 :credit/person ?a] [?a :person/name ?an]
                [?c2 :credit/movie ?m] [?c2 :credit/role "director"] [?c2 :credit/person ?d] [?d :person/name ?dn]
                [?d :person/born ?b] [(< ?b 1970)] [?c3 :credit/person ?a] [?c3 :credit/movie ?m3]
                [?m3 :movie/kind "series"]]""",
            """select distinct pa.name, pd.name, co.name from company co join movie_company mc on mc.company = co.id
               join movie m on m.id = mc.movie join movie_genre mg on mg.movie = m.id join genre g on g.id = mg.genre
               join credit c1 on c1.movie = m.id and c1.role = 'actress' join person pa on pa.id = c1.person
               join credit c2 on c2.movie = m.id and c2.role = 'director' join person pd on pd.id = c2.person
               join credit c3 on c3.person = pa.id join movie m3 on m3.id = c3.movie
               where co.country = 'jp' and g.name = 'crime' and m.year > 1990 and m.rating > 7.5
               and pd.born < 1970 and m3.kind = 'series'""",
        ),
    ]
