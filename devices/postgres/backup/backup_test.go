package backup_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"millrace/devices/postgres/backup"
	"millrace/migrations"
	"millrace/migrations/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func connect(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func exec(t testing.TB, conn *pgx.Conn, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		if _, err := conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// site fills a database with something of everything: odd texts, nulls, infinities, chunks of two weeks, of another time, fresh and packed.
var site = []string{
	`insert into device (id, label, type, attributes, state) select 'd' || i, E'label \t\n\\ ''"é∞' || i, '', '{"a":[1,null,{"b":"c"}]}', 'active' from generate_series(1, 300) i`,
	`insert into credential (id, device, kind, hint, hash) values ('c1', 'd1', 'token', 'abcd', '\x00ff0a')`,
	`insert into device_group (path, label) values ('plant1', ''), ('plant1/line1', 'Line 1')`,
	`insert into member select id, 'plant1/line1' from device`,
	`insert into series (device, metric, kind, low, high) select id, 'temp', 1, '-infinity', 'nan' from device`,
	`insert into last_value select id, 'temp', 1, 0, 5, 6, 1e300, 0, '' from device`,
	`insert into stream_position values ('lastvalues', 'telemetry 2026', 77), ('history', 'telemetry 2026', 70)`,
	`insert into site_user (id, email, name, password_hash) values ('u1', 'a@example.com', 'A', '$argon2id$x')`,
	`insert into api_token (id, name, role, path, hint, hash, created_by) values ('t1', 'n', 'viewer', '', 'h', '\x01', 'u1')`,
	`insert into role_binding (id, user_id, path, role) values ('b1', 'u1', '', 'admin')`,
	`insert into session values ('\x02', 'u1', 'x', now(), now(), '', '')`,
	`insert into audit (actor, actor_kind, actor_id, ip, action, object) select 'a', 'user', 'u1', '', 'device.create', 'd' || i from generate_series(1, 300) i`,
	`insert into history_series (device, metric) select id, 'temp' from device order by id`,
	`update history_generation set n = 5`,
	`create table history_chunk_20260105 partition of history_packed for values from (1767571200000) to (1768176000000)`,
	`create table history_chunk_20260112 partition of history_packed for values from (1768176000000) to (1768780800000)`,
	`insert into history_chunk (start, flush, first, last, min, max, sum, series, span, n, kind, quality, fresh, data)
		select 1767571200000 + i::bigint * 100000, nextval('history_flush'), i, 'nan', '-infinity', 'infinity', -0.0, 1 + i % 300, 10, 600, 1, 0, i % 3 = 0, decode(repeat(md5(i::text), 30), 'hex')
		from generate_series(1, 9000) i`,
	`insert into history_chunk (start, flush, first, last, min, max, sum, series, span, n, kind, quality, fresh, data) values (17, 3, 0, 0, 0, 0, 0, 2, 10, 600, 1, 0, false, '')`,
	`insert into history_dirty values (1, 5)`,
	`insert into history_parked (device, metric, start, n, kind, reason, data) values ('d1', 'temp', 1, 1, 1, 'why', '\x00')`,
}

// filled returns a database with a site in it.
func filled(t testing.TB) (url string, conn *pgx.Conn) {
	t.Helper()
	url = pgtest.URL(t)
	conn = connect(t, url)
	exec(t, conn, site...)
	return url, conn
}

// prints tells what each table and sequence of ours holds, also by partition.
func prints(t testing.TB, conn *pgx.Conn) map[string]string {
	t.Helper()
	rows, _ := conn.Query(t.Context(), `select relname::text from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'S') and relname not in ('session')
		and relname not like 'goose%'`)
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, name := range all {
		var p string
		what := "t::text"
		if strings.HasSuffix(name, "_seq") || name == "history_flush" {
			what = "t.last_value::text || t.is_called"
		}
		if err := conn.QueryRow(t.Context(), fmt.Sprintf(`select count(*) || ' ' || coalesce(md5(string_agg((%[1]s), ',' order by (%[1]s) collate "C")), '') from %[2]s t`, what, name)).Scan(&p); err != nil {
			t.Fatal(name, err)
		}
		found[name] = p
	}
	return found
}

func same(t testing.TB, got, want map[string]string) {
	t.Helper()
	for name := range maps.Keys(want) {
		if got[name] != want[name] {
			t.Errorf("%s: %q, not %q", name, got[name], want[name])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d tables and sequences, not %d", len(got), len(want))
	}
}

func write(t testing.TB, conn *pgx.Conn) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, _, err := backup.Write(t.Context(), conn, &b, "test", nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func restore(ctx context.Context, conn *pgx.Conn, r io.Reader, replace bool) error {
	a, err := backup.Open(r)
	if err != nil {
		return err
	}
	defer a.Close()
	_, err = a.Restore(ctx, conn, replace, nil)
	return err
}

func check(r io.Reader) (backup.End, error) {
	a, err := backup.Open(r)
	if err != nil {
		return backup.End{}, err
	}
	defer a.Close()
	return a.Check(context.Background(), nil)
}

// What is restored is what was there, but for sessions; numbers go on after it; a partition is where it was.
func TestRoundTrip(t *testing.T) {
	_, from := filled(t)
	want := prints(t, from)
	var b bytes.Buffer
	told := map[string]int64{}
	head, end, err := backup.Write(t.Context(), from, &b, "test", func(table string, _, _ int, rows, _ int64, done bool) {
		if done {
			told[table] = rows
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if told["history_chunk"] != 9001 || told["device"] != 300 || head.Schema != migrations.Newest() || head.Major < 14 {
		t.Errorf("%v, %+v", told, head)
	}
	if _, ok := told["session"]; ok {
		t.Error("sessions are in it")
	}
	checked, err := check(bytes.NewReader(b.Bytes()))
	if err != nil || !slices.Equal(checked.Tables, end.Tables) {
		t.Errorf("%+v, not %+v, %v", checked, end, err)
	}
	to := connect(t, pgtest.URL(t))
	if err := restore(t.Context(), to, bytes.NewReader(b.Bytes()), false); err != nil {
		t.Fatal(err)
	}
	if err := backup.Analyze(t.Context(), to); err != nil {
		t.Error(err)
	}
	same(t, prints(t, to), want)
	var id int64
	if err := to.QueryRow(t.Context(), `insert into audit (actor, actor_kind, actor_id, ip, action, object) values ('a', 'user', 'u1', '', 'x.y', '') returning id`).Scan(&id); err != nil || id != 301 {
		t.Errorf("the next entry has number %d, %v", id, err)
	}
	if _, err := to.Exec(t.Context(), "delete from audit"); err == nil {
		t.Error("entries of the audit can be deleted")
	}
	exec(t, to, `delete from device where id = 'd1'`) // goes along its references
	// Goose finds nothing to do.
	pool, err := pgxpool.New(t.Context(), to.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := migrations.Up(t.Context(), pool); err != nil {
		t.Error(err)
	}
	if current, newest, err := migrations.Versions(t.Context(), pool); current != newest || err != nil {
		t.Errorf("version %d of %d, %v", current, newest, err)
	}
}

// Into a database that is in use only on demand, and then nothing of the old is left.
func TestReplace(t *testing.T) {
	_, from := filled(t)
	want, file := prints(t, from), write(t, from)
	to := connect(t, pgtest.URL(t))
	exec(t, to, `insert into device (id, label, type, state) values ('old', '', '', 'active')`,
		`insert into audit (actor, actor_kind, actor_id, ip, action, object) values ('a', 'user', 'u1', '', 'x.y', '')`,
		`create table history_chunk_20251229 partition of history_packed for values from (1766966400000) to (1767571200000)`,
		`create table of_others (a int)`, `insert into of_others values (1)`)
	before := prints(t, to)
	if err := restore(t.Context(), to, bytes.NewReader(file), false); !errors.Is(err, backup.ErrNotEmpty) || !strings.Contains(err.Error(), "1 of device") {
		t.Errorf("%v", err)
	}
	same(t, prints(t, to), before)
	// What others built upon a table of ours is not dropped, but named.
	exec(t, to, "create view of_grafana as select id from device")
	if err := restore(t.Context(), to, bytes.NewReader(file), true); err == nil || !strings.Contains(err.Error(), "of_grafana") {
		t.Errorf("%v", err)
	}
	same(t, prints(t, to), before)
	exec(t, to, "drop view of_grafana")
	if err := restore(t.Context(), to, bytes.NewReader(file), true); err != nil {
		t.Fatal(err)
	}
	want["of_others"] = before["of_others"]
	same(t, prints(t, to), want)
}

// A file that is damaged anywhere changes nothing and is told to be so; by check as well.
func TestDamaged(t *testing.T) {
	_, from := filled(t)
	file := write(t, from)
	to := connect(t, pgtest.URL(t))
	exec(t, to, `insert into device (id, label, type, state) values ('old', '', '', 'active')`)
	before := prints(t, to)
	try := func(what string, file []byte, want ...error) {
		t.Helper()
		is := func(err error) bool {
			return slices.ContainsFunc(want, func(w error) bool { return errors.Is(err, w) })
		}
		if _, err := check(bytes.NewReader(file)); !is(err) {
			t.Errorf("%s: check says %v", what, err)
		}
		if err := restore(t.Context(), to, bytes.NewReader(file), true); !is(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := 1; i < 8; i++ {
		try("cut short", file[:len(file)*i/8], backup.ErrDamaged)
		spoilt := bytes.Clone(file)
		spoilt[len(file)*i/8] ^= 4
		try("a bit changed", spoilt, backup.ErrDamaged)
	}
	try("without its last byte", file[:len(file)-1], backup.ErrDamaged)
	try("with something after it", append(bytes.Clone(file), "more"...), backup.ErrDamaged)
	try("empty", nil, backup.ErrNoBackup)
	try("something else", []byte("-- PostgreSQL database dump"), backup.ErrNoBackup)
	same(t, prints(t, to), before)
}
