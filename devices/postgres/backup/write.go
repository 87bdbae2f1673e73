package backup

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/klauspost/compress/zstd"

	"millrace/migrations"
)

const (
	// A table and its partitions, but default ones: those are locked when their turn comes, so that partitions can be made beside them. What moves
	// into one then does so after our snapshot.
	relationsOf = `select coalesce(p.relid, c.oid)::regclass::text
		from unnest($1::text[]) as u (name) join pg_class c on c.oid = to_regclass(quote_ident(u.name))
		left join lateral pg_partition_tree(c.oid) p on c.relkind = 'p'
		left join pg_class r on r.oid = p.relid
		where not c.relispartition and (r.oid is null or pg_get_expr(r.relpartbound, r.oid) is distinct from 'DEFAULT')`
	columnsOf = `select u.name, a.attname, format_type(a.atttypid, a.atttypmod)
		from unnest($1::text[]) as u (name) join pg_class c on c.oid = to_regclass(quote_ident(u.name))
		join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
		where c.relkind in ('r', 'p') and not c.relispartition
		order by 1, a.attnum`
	referencesOf = `select c.conrelid::regclass::text, c.confrelid::regclass::text from pg_constraint c
		where c.contype = 'f' and c.conparentid = 0 and c.conrelid <> c.confrelid
		and c.conrelid in (select to_regclass(quote_ident(u.name)) from unnest($1::text[]) as u (name))`
	partitionsOf = `select c.relname, i.inhparent::regclass::text, pg_get_expr(c.relpartbound, c.oid)
		from pg_class c join pg_inherits i on i.inhrelid = c.oid
		where c.relispartition and c.relkind = 'r' and pg_partition_root(c.oid) in (select to_regclass(quote_ident(u.name)) from unnest($1::text[]) as u (name))
		order by 1`
	ownedSequences = `select t.relname, a.attname, s.oid::regclass::text
		from unnest($1::text[]) as u (name) join pg_class t on t.oid = to_regclass(quote_ident(u.name))
		join pg_depend d on d.refobjid = t.oid and d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i') and d.refobjsubid > 0
		join pg_class s on s.oid = d.objid and s.relkind = 'S'
		join pg_attribute a on a.attrelid = t.oid and a.attnum = d.refobjsubid
		order by 1, 2`
	looseSequences = `select u.name, '', to_regclass(quote_ident(u.name))::text from unnest($1::text[]) as u (name)
		where to_regclass(quote_ident(u.name)) is not null order by 1`
	schemaVersion = `select coalesce(max(version_id), 0) from goose_db_version where is_applied`
)

var rangeBound = regexp.MustCompile(`^FOR VALUES FROM \('?(-?\d+)'?\) TO \('?(-?\d+)'?\)$`)

// Write writes all there is in the database to w, as of one moment, whatever others do meanwhile. It keeps nobody from writing; only what
// would drop a table waits. The connection is the package's until it returns. program is Millrace's version, for the head.
func Write(ctx context.Context, conn *pgx.Conn, w io.Writer, program string, progress Progress) (Head, End, error) {
	head := Head{Format: Format, Program: program}
	var there bool
	if err := conn.QueryRow(ctx, "select to_regclass('goose_db_version') is not null").Scan(&there); err != nil {
		return head, End{}, err
	}
	if !there {
		return head, End{}, ErrNoSchema
	}
	err := begin(ctx, conn)
	defer conn.Exec(context.WithoutCancel(ctx), "rollback") // nothing was changed; when the connection is gone, nor is there
	if err != nil {
		return head, End{}, err
	}
	if err := head.read(ctx, conn); err != nil {
		return head, End{}, err
	}
	if newest := migrations.Newest(); head.Schema > newest {
		return head, End{}, fmt.Errorf("the database has schema %d, this Millrace knows up to %d: back up with the version that made it", head.Schema, newest)
	}
	end, err := head.write(ctx, conn, w, progress)
	return head, end, err
}

// begin takes the snapshot, after the locks that keep what is in it from being dropped.
func begin(ctx context.Context, conn *pgx.Conn) error {
	for try := 0; ; try++ {
		rows, _ := conn.Query(ctx, relationsOf, names("table")) // its error comes back from rows
		all, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		if len(all) == 0 {
			return ErrNoSchema
		}
		slices.Sort(all)
		for i := range all {
			all[i] = "only " + all[i]
		}
		// The first statement that reads takes the snapshot; lock does not (PostgreSQL, LOCK).
		_, err = conn.PgConn().Exec(ctx, `begin isolation level repeatable read read only;
			set local statement_timeout = 0; set local idle_in_transaction_session_timeout = 0; set local lock_timeout = '1min';
			lock table `+strings.Join(all, ", ")+` in access share mode`).ReadAll()
		pg, ok := errors.AsType[*pgconn.PgError](err)
		if !ok || pg.Code != "42P01" || try > 10 {
			return err
		}
		// One was dropped between the two.
		if _, err := conn.Exec(ctx, "rollback"); err != nil {
			return err
		}
	}
}

// read fills in the head from the catalog.
func (h *Head) read(ctx context.Context, conn *pgx.Conn) error {
	if err := conn.QueryRow(ctx, "select now(), current_setting('server_version'), current_setting('server_version_num')::int / 10000").
		Scan(&h.Made, &h.PostgreSQL, &h.Major); err != nil {
		return err
	}
	if err := conn.QueryRow(ctx, schemaVersion).Scan(&h.Schema); err != nil {
		return err
	}
	ours := slices.DeleteFunc(names("table"), func(name string) bool { return slices.Contains(leftOut, name) })
	var err error
	if h.Tables, err = tables(ctx, conn, ours); err != nil {
		return err
	}
	var name, parent, bound string
	rows, _ := conn.Query(ctx, partitionsOf, ours) // its error comes back from rows
	if _, err := pgx.ForEachRow(rows, []any{&name, &parent, &bound}, func() error {
		if m := rangeBound.FindStringSubmatch(bound); m != nil {
			from, err1 := strconv.ParseInt(m[1], 10, 64)
			to, err2 := strconv.ParseInt(m[2], 10, 64)
			h.Partitions = append(h.Partitions, Partition{Name: name, Parent: parent, From: from, To: to})
			return errors.Join(err1, err2)
		}
		return nil
	}); err != nil {
		return err
	}
	return h.readSequences(ctx, conn, ours)
}

// readSequences reads where they are by now, which is no earlier than the snapshot: what is in it has been numbered.
func (h *Head) readSequences(ctx context.Context, conn *pgx.Conn, ours []string) error {
	type sequence struct{ owner, column, oid string }
	for _, q := range []struct {
		sql   string
		names []string
	}{{ownedSequences, ours}, {looseSequences, names("sequence")}} {
		var s sequence
		var found []sequence
		rows, _ := conn.Query(ctx, q.sql, q.names) // its error comes back from rows
		if _, err := pgx.ForEachRow(rows, []any{&s.owner, &s.column, &s.oid}, func() error { found = append(found, s); return nil }); err != nil {
			return err
		}
		for _, s := range found {
			out := Sequence{Table: s.owner, Column: s.column}
			if s.column == "" {
				out = Sequence{Name: s.owner}
			}
			if err := conn.QueryRow(ctx, "select last_value, is_called from "+s.oid).Scan(&out.Value, &out.Called); err != nil {
				return err
			}
			h.Sequences = append(h.Sequences, out)
		}
	}
	return nil
}

// tables returns those that are there, with their columns, each after those that it refers to.
func tables(ctx context.Context, conn *pgx.Conn, ours []string) ([]Table, error) {
	columns := map[string][]Column{}
	var name string
	var c Column
	rows, _ := conn.Query(ctx, columnsOf, ours) // its error comes back from rows
	if _, err := pgx.ForEachRow(rows, []any{&name, &c.Name, &c.Type}, func() error {
		columns[name] = append(columns[name], c)
		return nil
	}); err != nil {
		return nil, err
	}
	refers := map[string][]string{}
	var from, to string
	rows, _ = conn.Query(ctx, referencesOf, ours) // its error comes back from rows
	if _, err := pgx.ForEachRow(rows, []any{&from, &to}, func() error { refers[from] = append(refers[from], to); return nil }); err != nil {
		return nil, err
	}
	var all []Table
	done := map[string]bool{}
	var add func(name string)
	add = func(name string) {
		if done[name] || columns[name] == nil {
			return
		}
		done[name] = true
		for _, other := range refers[name] {
			add(other)
		}
		all = append(all, Table{Name: name, Columns: columns[name]})
	}
	for _, name := range ours {
		add(name)
	}
	return all, nil
}

// columnList is for SQL.
func (t *Table) columnList() string {
	var b strings.Builder
	for i, c := range t.Columns {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(pgx.Identifier{c.Name}.Sanitize())
	}
	return b.String()
}

// write writes the file.
func (h *Head) write(ctx context.Context, conn *pgx.Conn, w io.Writer, progress Progress) (end End, err error) {
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(true))
	if err != nil {
		return end, err
	}
	archive := tar.NewWriter(z)
	entry := func(name string, content []byte) error {
		if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(content)), ModTime: h.Made.Truncate(time.Second)}); err != nil {
			return err
		}
		_, err := archive.Write(content)
		return err
	}
	content, err := json.MarshalIndent(h, "", "\t")
	if err != nil {
		return end, errors.Join(err, z.Close())
	}
	sum := sha256.Sum256(content)
	end.Head = hex.EncodeToString(sum[:])
	err = entry(headName, content)
	for i, t := range h.Tables {
		if err != nil {
			break
		}
		p := pieces{table: t.Name, entry: entry, sum: sha256.New(), tell: func(rows, bytes int64, done bool) { progress.tell(t.Name, i+1, len(h.Tables), rows, bytes, done) }}
		_, err = conn.PgConn().CopyTo(ctx, &p, fmt.Sprintf("copy (select %s from %s) to stdout (format binary)", t.columnList(), pgx.Identifier{t.Name}.Sanitize()))
		if err == nil {
			err = p.close()
		}
		if err != nil {
			err = fmt.Errorf("table %s: %w", t.Name, err)
		}
		end.Tables = append(end.Tables, Total{Name: t.Name, Rows: p.count.rows, Bytes: p.bytes, SHA256: hex.EncodeToString(p.sum.Sum(nil))})
	}
	if err == nil {
		if content, err = json.MarshalIndent(end, "", "\t"); err == nil {
			err = entry(endName, content)
		}
	}
	if err == nil {
		err = archive.Close()
	}
	return end, errors.Join(err, z.Close())
}

// pieces cuts a table into entries.
type pieces struct {
	table string
	entry func(name string, content []byte) error
	tell  func(rows, bytes int64, done bool)
	buf   []byte
	n     int
	bytes int64
	sum   hash.Hash
	count rowCounter
}

func (p *pieces) Write(b []byte) (int, error) {
	p.buf = append(p.buf, b...)
	if len(p.buf) < pieceSize {
		return len(b), nil
	}
	return len(b), p.flush()
}

func (p *pieces) flush() error {
	p.n++
	p.bytes += int64(len(p.buf))
	p.sum.Write(p.buf)
	if _, err := p.count.Write(p.buf); err != nil {
		return err
	}
	if err := p.entry(fmt.Sprintf("%s%s/%06d.copy", tablesDir, p.table, p.n), p.buf); err != nil {
		return err
	}
	p.buf = p.buf[:0]
	p.tell(p.count.rows, p.bytes, false)
	return nil
}

func (p *pieces) close() error {
	if len(p.buf) > 0 {
		if err := p.flush(); err != nil {
			return err
		}
	}
	if !p.count.complete() {
		return errRows
	}
	p.tell(p.count.rows, p.bytes, true)
	return nil
}
