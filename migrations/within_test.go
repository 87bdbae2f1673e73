package migrations_test

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"millrace/migrations"
	"millrace/migrations/pgtest"
)

// Objects names all that is there after the last file, and only that can go unnamed which goose or a partition's maker made.
func TestObjects(t *testing.T) {
	pool := pgtest.New(t)
	rows, _ := pool.Query(t.Context(), `
		select relname from pg_class where relnamespace = current_schema()::regnamespace and relname <> 'goose_db_version' and (relkind in ('r', 'p', 'v', 'm')
			or relkind = 'S' and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = pg_class.oid and d.deptype in ('a', 'i')))
		union all select proname from pg_proc where pronamespace = current_schema()::regnamespace
		union all select typname from pg_type where typnamespace = current_schema()::regnamespace and typtype in ('e', 'd')`)
	there, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range there {
		if !slices.ContainsFunc(migrations.Objects(), func(o migrations.Object) bool { return o.Name == name }) {
			t.Errorf("%s is not among the objects that the files are found to make", name)
		}
	}
	if len(there) < 20 {
		t.Errorf("only %d", len(there))
	}
}

// All files in one transaction lead where goose leads.
func TestWithin(t *testing.T) {
	pool := pgtest.New(t)
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	for _, sql := range []string{"create schema other", "set local search_path = other", "create table goose_db_version (like public.goose_db_version including all)"} {
		if _, err := tx.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if err := migrations.Within(t.Context(), conn.Conn(), 0, 1); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Within(t.Context(), conn.Conn(), 1, migrations.Newest()); err != nil {
		t.Fatal(err)
	}
	var same bool
	if err := tx.QueryRow(t.Context(), `select (select array_agg(relname || relkind::text order by relname) from pg_class where relnamespace = 'other'::regnamespace and relkind <> 't')
		= (select array_agg(relname || relkind::text order by relname) from pg_class where relnamespace = 'public'::regnamespace and relkind <> 't')`).Scan(&same); err != nil || !same {
		t.Errorf("same %v, %v", same, err)
	}
	var newest int64
	if err := tx.QueryRow(t.Context(), "select max(version_id) from goose_db_version").Scan(&newest); err != nil || newest != migrations.Newest() {
		t.Errorf("version %d, %v", newest, err)
	}
}
