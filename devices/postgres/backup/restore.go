package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"millrace/migrations"
)

// Rows that are there without anybody having used the database, or that mean nothing alone.
var notContent = []string{"session", "stream_position", "history_generation", "history_doomed", "audit"}

// Contents says how much there is in the database: rows of the tables that have some. It counts no further than a million.
func Contents(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	var all []string
	for _, name := range names("table") {
		if slices.Contains(notContent, name) {
			continue
		}
		var there bool
		if err := conn.QueryRow(ctx, "select to_regclass(quote_ident($1)) is not null", name).Scan(&there); err != nil {
			return nil, err
		}
		var n int
		if !there {
			continue
		}
		if err := conn.QueryRow(ctx, "select count(*) from (select from "+pgx.Identifier{name}.Sanitize()+" limit 1000000) as t").Scan(&n); err != nil {
			return nil, err
		}
		if n == 1000000 {
			all = append(all, "a million or more of "+name)
		} else if n > 0 {
			all = append(all, fmt.Sprintf("%d of %s", n, name))
		}
	}
	return all, nil
}

const (
	existing = `select case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence' else 'table' end, c.oid::regclass::text
		from unnest($1::text[]) as u (name) join pg_class c on c.oid = to_regclass(quote_ident(u.name))
		union all select case p.prokind when 'p' then 'procedure' when 'a' then 'aggregate' else 'function' end, p.oid::regprocedure::text
		from unnest($1::text[]) as u (name) join pg_proc p on p.proname = u.name and pg_function_is_visible(p.oid) and p.pronamespace <> 'pg_catalog'::regnamespace
		union all select 'type', t.oid::regtype::text
		from unnest($1::text[]) as u (name) join pg_type t on t.oid = to_regtype(quote_ident(u.name)) and t.typtype in ('e', 'd')`
	serial = `select pg_get_serial_sequence(quote_ident($1), $2)`
)

// Restore puts the backup's rows in place of all that is in the database, whose schema is this version's (migrations.Up): in one transaction, so that whatever
// goes wrong, nothing has changed. It goes by way of the schema that the backup was made with. Unless replace, the database must be empty.
// No server may use it meanwhile. The connection is the package's until it returns.
func (a *Archive) Restore(ctx context.Context, conn *pgx.Conn, replace bool, progress Progress) (End, error) {
	// Goose's table: a server that starts now waits with its migrations, and then finds what we restored.
	_, err := conn.PgConn().Exec(ctx, `begin; set local statement_timeout = 0; set local idle_in_transaction_session_timeout = 0; set local lock_timeout = '20s';
		lock table goose_db_version in access exclusive mode`).ReadAll()
	defer conn.Exec(context.WithoutCancel(ctx), "rollback") // after commit it does nothing
	if err != nil {
		return End{}, waited(err)
	}
	if !replace {
		switch there, err := Contents(ctx, conn); {
		case err != nil:
			return End{}, err
		case len(there) > 0:
			return End{}, fmt.Errorf("%w: %s", ErrNotEmpty, strings.Join(there, ", "))
		}
	}
	if err := drop(ctx, conn); err != nil {
		return End{}, waited(err)
	}
	if _, err := conn.Exec(ctx, "delete from goose_db_version where version_id > $1", a.Head.Schema); err != nil {
		return End{}, err
	}
	if err := migrations.Within(ctx, conn, 0, a.Head.Schema); err != nil {
		return End{}, err
	}
	if err := a.Head.fits(ctx, conn); err != nil {
		return End{}, err
	}
	if err := a.Head.partition(ctx, conn); err != nil {
		return End{}, err
	}
	for i := range a.Head.Tables {
		if err := a.load(ctx, conn, i, progress); err != nil {
			return End{}, err
		}
	}
	end, err := a.finish()
	if err != nil {
		return End{}, err
	}
	if err := a.Head.number(ctx, conn); err != nil {
		return End{}, err
	}
	if err := migrations.Within(ctx, conn, a.Head.Schema, migrations.Newest()); err != nil {
		return End{}, err
	}
	if _, err := conn.Exec(ctx, "commit"); err != nil {
		return End{}, err
	}
	return end, nil
}

// Analyze lets the planner know what is there now.
func Analyze(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, "analyze "+strings.Join(names("table"), ", "))
	return err
}

// waited explains a lock that was not to be had.
func waited(err error) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "55P03" {
		return errors.New("somebody else uses the database, and keeps its tables from being replaced: end that first")
	}
	return err
}

// drop drops what the migrations made, and nothing else: what others built upon it is in the way, and named.
func drop(ctx context.Context, conn *pgx.Conn) error {
	var all []string
	for _, o := range migrations.Objects() {
		if !slices.Contains(all, o.Name) {
			all = append(all, o.Name)
		}
	}
	type object struct{ kind, name string }
	var left []object
	var o object
	rows, _ := conn.Query(ctx, existing, all) // its error comes back from rows
	if _, err := pgx.ForEachRow(rows, []any{&o.kind, &o.name}, func() error { left = append(left, o); return nil }); err != nil {
		return err
	}
	for len(left) > 0 {
		var refused []object
		var why error
		for _, o := range left { // without what depends on others still to be dropped: that comes in the next round
			_, err := conn.PgConn().Exec(ctx, "savepoint one; drop "+o.kind+" if exists "+o.name).ReadAll()
			pg, ok := errors.AsType[*pgconn.PgError](err)
			switch {
			case ok && pg.Code == "2BP01": // others depend on it
				refused = append(refused, o)
				why = fmt.Errorf("%s can't be replaced, as others than Millrace built upon it: %s; drop these first, and make them anew afterwards", o.name, pg.Detail)
				if _, err := conn.Exec(ctx, "rollback to savepoint one"); err != nil {
					return err
				}
			case err != nil:
				return err
			}
		}
		if len(refused) == len(left) {
			return why
		}
		left = refused
	}
	return nil
}

// fits checks that the schema has the tables and columns of the backup, as they were.
func (h *Head) fits(ctx context.Context, conn *pgx.Conn) error {
	ours := names("table")
	there, err := tables(ctx, conn, ours)
	if err != nil {
		return err
	}
	for _, t := range h.Tables {
		i := slices.IndexFunc(there, func(o Table) bool { return o.Name == t.Name })
		if i < 0 || slices.Contains(leftOut, t.Name) {
			return damaged(fmt.Errorf("schema %d has no table %q", h.Schema, t.Name))
		}
		for _, c := range t.Columns {
			if !slices.Contains(there[i].Columns, c) {
				return damaged(fmt.Errorf("schema %d has no column %q of type %q in table %s", h.Schema, c.Name, c.Type, t.Name))
			}
		}
		// What the migrations put there, the backup has as it was.
		var some bool
		if err := conn.QueryRow(ctx, "select exists (select from "+pgx.Identifier{t.Name}.Sanitize()+")").Scan(&some); err != nil {
			return err
		}
		if some {
			if _, err := conn.Exec(ctx, "delete from "+pgx.Identifier{t.Name}.Sanitize()); err != nil {
				return err
			}
		}
	}
	return nil
}

// partition makes the partitions that were there, so that rows lie where they lay.
func (h *Head) partition(ctx context.Context, conn *pgx.Conn) error {
	for _, p := range h.Partitions {
		if !slices.Contains(names("table"), p.Parent) {
			return damaged(fmt.Errorf("schema %d has no table %q", h.Schema, p.Parent))
		}
		if _, err := conn.Exec(ctx, fmt.Sprintf("create table if not exists %s partition of %s for values from (%d) to (%d)",
			pgx.Identifier{p.Name}.Sanitize(), pgx.Identifier{p.Parent}.Sanitize(), p.From, p.To)); err != nil {
			return fmt.Errorf("partition %s: %w", p.Name, err)
		}
	}
	return nil
}

// load copies one table.
func (a *Archive) load(ctx context.Context, conn *pgx.Conn, i int, progress Progress) error {
	t := &a.Head.Tables[i]
	r := a.table(t.Name, i+1, progress)
	tag, err := conn.PgConn().CopyFrom(ctx, r, fmt.Sprintf("copy %s (%s) from stdin (format binary)", pgx.Identifier{t.Name}.Sanitize(), t.columnList()))
	if failed := r.failed(); failed != nil && ctx.Err() == nil { // the server only knows that we gave up
		err = failed
	}
	if closed := r.close(); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("table %s: %w", t.Name, err)
	}
	if tag.RowsAffected() != r.count.rows {
		return fmt.Errorf("table %s: PostgreSQL took %d rows of %d", t.Name, tag.RowsAffected(), r.count.rows)
	}
	return nil
}

// number sets the sequences. They are new, so a rollback takes that back, too.
func (h *Head) number(ctx context.Context, conn *pgx.Conn) error {
	for _, s := range h.Sequences {
		name := pgx.Identifier{s.Name}.Sanitize()
		if s.Table != "" {
			if err := conn.QueryRow(ctx, serial, s.Table, s.Column).Scan(&name); err != nil {
				return damaged(fmt.Errorf("sequence of %s.%s: %w", s.Table, s.Column, err))
			}
		} else if !slices.Contains(names("sequence"), s.Name) {
			return damaged(fmt.Errorf("schema %d has no sequence %q", h.Schema, s.Name))
		}
		if _, err := conn.Exec(ctx, "select setval($1::text::regclass, $2, $3)", name, s.Value, s.Called); err != nil {
			return fmt.Errorf("sequence %s: %w", name, err)
		}
	}
	return nil
}
