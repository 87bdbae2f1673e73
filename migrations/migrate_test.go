package migrations_test

import (
	"context"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"millrace/migrations"
	"millrace/migrations/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// Several nodes that start together on an empty database.
func TestUpTogether(t *testing.T) {
	url := pgtest.Empty(t)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			pool, err := pgxpool.New(context.Background(), url)
			if err != nil {
				t.Error(err)
				return
			}
			defer pool.Close()
			if err := migrations.Up(context.Background(), pool); err != nil {
				t.Error(err)
			}
			current, newest, err := migrations.Versions(context.Background(), pool)
			if err != nil || current != newest || newest == 0 {
				t.Errorf("version %d of %d, %v", current, newest, err)
			}
		})
	}
	wg.Wait()
}

func TestNamesAndForwardOnly(t *testing.T) {
	files, err := fs.Glob(os.DirFS("."), "*.sql")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, name := range files {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`^\d{4}_[a-z_]+\.sql$`).MatchString(name) || strings.Contains(string(content), "+goose Down") {
			t.Errorf("%s: want NNNN_title.sql without a way down", name)
		}
	}
}

func TestAuditIsAppendOnly(t *testing.T) {
	pool := pgtest.New(t)
	if _, err := pool.Exec(t.Context(), "insert into audit (actor, actor_kind, actor_id, ip, action, object) values ('a', 'user', '1', '', 'x.y', 'z')"); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{"update audit set actor = 'b'", "delete from audit", "truncate audit"} {
		if _, err := pool.Exec(t.Context(), statement); err == nil {
			t.Errorf("%s went through", statement)
		}
	}
}
