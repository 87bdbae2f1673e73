// Package backup writes what is in the database, inventory and history, into one file, and reads it back.
//
// A backup is a tar archive compressed with zstd. Its entries, in this order:
//
//	head.json                     Head: what made it, the schema version, tables with their columns, partitions, sequences
//	tables/NAME/000001.copy …     a table's rows as COPY (format binary) gives them, cut into pieces of a mebibyte
//	end.json                      End: rows, bytes and SHA-256 of each table, and of head.json
//
// The pieces of a table, joined, are what COPY FROM takes. A file without its end.json is cut short. Names of columns come from the
// database's catalog, so the schema may grow without this package.
package backup

import (
	"errors"
	"time"

	"millrace/migrations"
)

// Format is the number of the file format that is written, and the newest that is read.
const Format = 1

const (
	headName  = "head.json"
	endName   = "end.json"
	tablesDir = "tables/"
	pieceSize = 1 << 20  // bytes
	headLimit = 16 << 20 // bytes that a head or an end may have
)

// What is left out: signed-in browsers (their cookies would come alive again) and what goose keeps.
var leftOut = []string{"session"}

// Errors that mean the file, not the database.
var (
	ErrDamaged  = errors.New("the backup is damaged or cut short")
	ErrNoBackup = errors.New("this is not a backup made by millrace backup")
	ErrNewer    = errors.New("the backup was made by a newer Millrace")
	ErrNotEmpty = errors.New("the database is not empty")
	ErrNoSchema = errors.New("the database holds nothing of Millrace")
)

// Head says what a backup holds.
type Head struct {
	Format     int         `json:"format"`
	Program    string      `json:"program"` // version of Millrace
	Made       time.Time   `json:"made"`    // when the cut was made that all of it is as of
	Schema     int64       `json:"schema"`  // number of the newest file of migrations
	PostgreSQL string      `json:"postgresql"`
	Major      int         `json:"major"` // of PostgreSQL
	Tables     []Table     `json:"tables"`
	Partitions []Partition `json:"partitions"`
	Sequences  []Sequence  `json:"sequences"`
}

// Table is one that rows are kept of. They stand in an order in which each refers to earlier ones only.
type Table struct {
	Name    string   `json:"name"`
	Columns []Column `json:"columns"`
}

// Column has its type as PostgreSQL's format_type tells it.
type Column struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// Partition is one by range of a bigint, from included, to not: the ones that are made as time goes on.
type Partition struct {
	Name   string `json:"name"`
	Parent string `json:"parent"`
	From   int64  `json:"from"`
	To     int64  `json:"to"`
}

// Sequence belongs to a column, or stands alone by its name.
type Sequence struct {
	Name   string `json:"name,omitempty"`
	Table  string `json:"table,omitempty"`
	Column string `json:"column,omitempty"`
	Value  int64  `json:"value"`
	Called bool   `json:"called"` // false: the value is the next one
}

// End says what was written.
type End struct {
	Head   string  `json:"head"` // SHA-256 of head.json
	Tables []Total `json:"tables"`
}

// Total is of one table.
type Total struct {
	Name   string `json:"name"`
	Rows   int64  `json:"rows"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Sum returns rows and bytes of all tables.
func (e *End) Sum() (rows, bytes int64) {
	for _, t := range e.Tables {
		rows, bytes = rows+t.Rows, bytes+t.Bytes
	}
	return rows, bytes
}

// Progress tells how far a table has come. It is called after each piece and at the table's end, on a goroutine of the package's, never on two at once.
type Progress func(table string, number, tables int, rows, bytes int64, done bool)

func (p Progress) tell(table string, number, tables int, rows, bytes int64, done bool) {
	if p != nil {
		p(table, number, tables, rows, bytes, done)
	}
}

// names returns the names of what the migrations make of one kind.
func names(kind string) (all []string) {
	for _, o := range migrations.Objects() {
		if o.Kind == kind {
			all = append(all, o.Name)
		}
	}
	return all
}
