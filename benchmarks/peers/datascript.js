// DataScript behind JSON lines on standard input and output; driven by datascript.py, which has the data and the questions.
// Times are taken here, around the call, with the answer as JavaScript objects.
const d = require(process.argv[2]), fs = require('fs'), readline = require('readline');
const given = JSON.parse(fs.readFileSync(process.argv[3]));
let db = null;
const now = () => Number(process.hrtime.bigint()) / 1e9;
const timed = f => { if (global.gc) global.gc(); const t = now(); const result = f(); return [now() - t, result]; };
const ask = q => d.q(q.datalog, db, ...(q.rules ? [q.rules] : []), ...q.inputs);
const datoms = () => given.datoms.map(([e, a, v]) => d.datom ? d.datom(e, a, v) : {e, a, v});
const left = c => d.q('[:find ?e ?n ?a ?s :where [?e "name" ?n] [?e "age" ?a] [?e "salary" ?s]]', d.db(c));
const loaded = rows => { const c = d.create_conn(given.schema); if (rows) d.transact(c, rows); return c; };
const person = r => ({':db/id': r.id, 'name': r.name, 'last-name': r.last_name, 'sex': r.sex, 'age': r.age, 'salary': r.salary});
const ATTRIBUTES = [['name', 'name'], ['last_name', 'last-name'], ['sex', 'sex'], ['age', 'age'], ['salary', 'salary']];
const PERSON = '[":db/id" "name" "last-name" "sex" "age" "salary"]';
const row = (m, e) => [e, m['name'], m['last-name'], m['sex'], m['age'], m['salary']];
const rows = (t, [seconds, found]) => [seconds, found.map((m, i) => row(m, t.ids[i]))]; // to be compared: not timed
const tasks = {
  'pull 1,000 in one call': t => rows(t, timed(() => d.pull_many(db, PERSON, t.ids))),
  'pull 1,000, a call each': t => rows(t, timed(() => t.ids.map(e => d.pull(db, PERSON, e)))),
  '1,000 lookups by unique value': t => timed(() => t.numbers.map(n => [d.entity(db, ['number', n]).get('age')])),
  'add-1': t => { const c = loaded();
    const ops = t.few.flatMap(r => ATTRIBUTES.map(([k, a]) => [[':db/add', r.id, a, r[k]]]));
    const [s] = timed(() => { for (const op of ops) d.transact(c, op); }); return [s, left(c)]; },
  'add-5': t => { const c = loaded(); const rows = t.rows.map(r => [person(r)]);
    const [s] = timed(() => { for (const r of rows) d.transact(c, r); }); return [s, left(c)]; },
  'add-all': t => { const c = loaded(); const rows = t.rows.map(person);
    const [s] = timed(() => d.transact(c, rows)); return [s, left(c)]; },
  'retract-5': t => { const c = loaded(t.few.map(person)); const gone = t.few.slice(Math.floor(t.few.length / 10));
    const [s] = timed(() => { for (const r of gone) d.transact(c, [[':db.fn/retractEntity', r.id]]); }); return [s, left(c)]; },
};
readline.createInterface({input: process.stdin}).on('line', text => {
  const request = JSON.parse(text);
  let reply;
  try {
    if (request.op === 'load') {
      const [seconds, made] = timed(() => d.init_db(given.datoms.map(([e, a, v]) => ({e, a, v, tx: 536870913, added: true})), given.schema));
      db = made; reply = {seconds};
    } else if (request.op === 'query') {
      const [seconds, rows] = timed(() => ask(request.query));
      reply = {seconds, count: rows.length, rows: request.rows ? rows : null};
    } else if (request.op === 'memory') {
      reply = {kilobytes: process.resourceUsage().maxRSS};
    } else if (request.op === 'task') {
      const [seconds, rows] = tasks[request.name](request.given);
      reply = {seconds, rows};
    }
  } catch (e) { reply = {error: String(e).slice(0, 500)}; }
  process.stdout.write(JSON.stringify(reply) + '\n');
});
