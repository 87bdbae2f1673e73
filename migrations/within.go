package migrations

import (
	"context"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// Object is something that the files make, by the word that makes it: table, view, sequence, function, procedure, type.
type Object struct{ Kind, Name string }

var (
	creation     = regexp.MustCompile(`(?m)^create (?:or replace )?(?:unlogged )?(table|view|materialized view|sequence|function|procedure|type|domain) ([a-z_][a-z0-9_]*)`)
	concurrently = regexp.MustCompile(`(?i)\bconcurrently\b`)
)

// file is one of ours.
type file struct {
	version int64
	sql     string
}

// sources are the files by rising version.
func sources() (all []file, err error) {
	names, err := fs.Glob(files, "*.sql") // sorted
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		content, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		version, err := strconv.ParseInt(name[:4], 10, 64)
		if err != nil {
			return nil, err
		}
		all = append(all, file{version, string(content)})
	}
	return all, nil
}

// Newest is the number of the newest file.
func Newest() int64 {
	all, err := sources()
	if err != nil || len(all) == 0 {
		panic(fmt.Sprint("migrations: ", err)) // they are in the binary
	}
	return all[len(all)-1].version
}

// Objects returns what the files make, in their order, goose's own table not among it. What a later file drops is in it too.
func Objects() []Object {
	all, err := sources()
	if err != nil {
		panic("migrations: " + err.Error()) // they are in the binary
	}
	var made []Object
	for _, f := range all {
		for _, m := range creation.FindAllStringSubmatch(f.sql, -1) {
			made = append(made, Object{Kind: m[1], Name: m[2]})
		}
	}
	return made
}

// Within applies the files after one version, up to and with another, in the transaction that conn is in, and notes them in goose's table,
// which Up has made. The caller has seen to it that nobody else migrates.
func Within(ctx context.Context, conn *pgx.Conn, after, upTo int64) error {
	all, err := sources()
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	for _, f := range all {
		if f.version <= after || f.version > upTo {
			continue
		}
		// All statements at once, by the simple protocol; nobody else is at the tables, so an index need not be made beside their use.
		if _, err := conn.PgConn().Exec(ctx, concurrently.ReplaceAllString(f.sql, "")).ReadAll(); err != nil {
			return fmt.Errorf("migrate to %d: %w", f.version, err)
		}
		if _, err := conn.Exec(ctx, `insert into goose_db_version (version_id, is_applied)
			select $1, true where not exists (select from goose_db_version where version_id = $1 and is_applied)`, f.version); err != nil {
			return fmt.Errorf("migrate to %d: %w", f.version, err)
		}
	}
	return nil
}
