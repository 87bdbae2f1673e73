package history

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/history/chunk"
	"millrace/devices/postgres"
	"millrace/migrations/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var quiet = slog.New(slog.DiscardHandler)

// a fixture is a store over a fresh database with devices a and b.
type fixture struct {
	testing.TB
	*Store
	inventory *postgres.Store
	released  []uint64
	seq       uint64 // of the last message delivered by send
}

func newFixture(t testing.TB, c Config) *fixture {
	t.Helper()
	return fixtureOn(t, pgtest.New(t), c)
}

func fixtureOn(t testing.TB, pool *pgxpool.Pool, c Config) *fixture {
	t.Helper()
	f := &fixture{TB: t, inventory: postgres.New(pool)}
	cat := catalog.New(catalog.Config{SeriesPerDevice: 100_000}, f.inventory)
	f.Store = New(pool, cat, c, quiet)
	f.device("a")
	f.device("b")
	return f
}

func (f *fixture) device(id devices.ID) {
	f.Helper()
	if _, err := f.inventory.CreateDevice(context.Background(), devices.Actor{Name: "test"}, devices.Device{ID: id, State: devices.Active}, devices.Credential{}); err != nil {
		f.Fatal(err)
	}
	if err := f.catalog.Load(context.Background()); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) series(device devices.ID, metric string, k devices.Kind) devices.SeriesID {
	f.Helper()
	id, err := f.catalog.Device(device).Series([]byte(metric), k)
	if err != nil {
		f.Fatal(err)
	}
	return id
}

// newWriter returns a writer of the life "life-1".
func (f *fixture) newWriter() (*Writer, uint64) {
	f.Helper()
	w, position, err := f.NewWriter(context.Background(), "life-1", func(seq uint64) { f.released = append(f.released, seq) })
	if err != nil {
		f.Fatal(err)
	}
	return w, position
}

// send delivers a message.
func (f *fixture) send(w *Writer, samples ...devices.Sample) {
	f.seq++
	w.Deliver(f.seq, samples)
}

func (f *fixture) flush(w *Writer) {
	f.Helper()
	if err := w.Flush(context.Background()); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) exec(sql string, args ...any) {
	f.Helper()
	if _, err := f.pool.Exec(context.Background(), sql, args...); err != nil {
		f.Fatal(err)
	}
}

// count runs a query for one number.
func (f *fixture) count(sql string, args ...any) (n int) {
	f.Helper()
	if err := f.pool.QueryRow(context.Background(), sql, args...).Scan(&n); err != nil {
		f.Fatal(err)
	}
	return n
}

// A stored chunk is a row of history_chunk with its samples.
type storedChunk struct {
	start, flush int64
	span, n      int32
	kind         devices.Kind
	chunk.Columns
}

// chunks returns what is in the database of a series, as it lies there.
func (f *fixture) chunks(device, metric string) (all []storedChunk) {
	f.Helper()
	rows, _ := f.pool.Query(context.Background(), `select start, flush, span, c.n, kind, data from history_chunk c join history_series s on s.id = c.series
		where s.device = $1 and s.metric = $2 order by start, flush`, device, metric)
	var data []byte
	var c storedChunk
	if _, err := pgx.ForEachRow(rows, []any{&c.start, &c.flush, &c.span, &c.n, &c.kind, &data}, func() error {
		c.Columns = chunk.Columns{}
		all = append(all, c)
		return chunk.Decode(data, c.kind, c.start, int(c.n), &all[len(all)-1].Columns)
	}); err != nil {
		f.Fatal(err)
	}
	return all
}

// samples returns what is recorded of a series as text, in time order, one sample a time: kind letter, time, value, quality.
func (f *fixture) samples(device, metric string) []string {
	f.Helper()
	type one struct {
		flush int64
		text  string
	}
	found := map[int64]one{}
	for _, c := range f.chunks(device, metric) {
		for i, at := range c.Times {
			text := sampleText(c.kind, &c.Columns, i)
			if old, there := found[at]; there && old.flush == c.flush {
				f.Errorf("%s/%s: %s and %s in one flush", device, metric, old.text, text)
			} else if !there || old.flush < c.flush {
				found[at] = one{c.flush, text}
			}
		}
	}
	times := make([]int64, 0, len(found))
	for at := range found {
		times = append(times, at)
	}
	slices.Sort(times)
	out := make([]string, len(times))
	for i, at := range times {
		out[i] = found[at].text
	}
	return out
}

// sampleText shows a sample: the first letter of its kind, time, value, and quality unless it is good.
func sampleText(k devices.Kind, c *chunk.Columns, i int) string {
	text := fmt.Sprintf("%c%d=", k.String()[0], c.Times[i])
	switch k {
	case devices.String:
		text += c.Texts[i]
	case devices.Location:
		text += fmt.Sprintf("%v,%v", c.Values[i], c.Lons[i])
	default:
		text += fmt.Sprint(c.Values[i])
	}
	if len(c.Quality) > 0 && c.Quality[i] != devices.Good {
		text += "/" + c.Quality[i].String()
	}
	return text
}

func headTexts(runs []Run) (out []string) {
	for _, r := range runs {
		for i := range r.Times {
			out = append(out, sampleText(r.Kind, &r.Columns, i))
		}
	}
	return out
}

func equalTexts(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %v\nwant %v", what, got, want)
	}
}

// soon waits until something holds.
func soon(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}
