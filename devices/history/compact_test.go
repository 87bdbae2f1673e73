package history

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"millrace/devices"
	"millrace/devices/history/chunk"
	"millrace/migrations/pgtest"
)

// A table is the history of some series as it should be, beside the one in the database. Chunks are written as the Writer writes them.
type table struct {
	t interface {
		Helper()
		Fatal(...any)
		Fatalf(string, ...any)
		Errorf(string, ...any)
	}
	s    *Store
	want map[int32]map[int64]devices.Sample
}

func newTable(t *testing.T) *table {
	pool := pgtest.New(t)
	s := New(pool, nil, Config{}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	return &table{t: t, s: s, want: make(map[int32]map[int64]devices.Sample)}
}

func (tb *table) must(err error) {
	tb.t.Helper()
	if err != nil {
		tb.t.Fatal(err)
	}
}

// series makes one.
func (tb *table) series(device devices.ID, metric string) (id int32) {
	tb.t.Helper()
	tb.must(tb.s.pool.QueryRow(context.Background(), `insert into history_series (device, metric) values ($1, $2) returning id`, device, metric).Scan(&id))
	tb.want[id] = make(map[int64]devices.Sample)
	return id
}

// columnsOf sorts samples with different times into columns.
func columnsOf(samples []devices.Sample) *chunk.Columns {
	samples = slices.Clone(samples)
	slices.SortFunc(samples, func(a, b devices.Sample) int { return cmp.Compare(a.At, b.At) })
	c := &chunk.Columns{}
	for _, s := range samples {
		c.Times, c.Values = append(c.Times, s.At), append(c.Values, s.Value)
		if s.Kind == devices.String {
			c.Texts = append(c.Texts, s.Text)
		}
		if s.Kind == devices.Location {
			c.Lons = append(c.Lons, s.Lon)
		}
		c.Quality = append(c.Quality, s.Quality)
	}
	if !slices.ContainsFunc(c.Quality, func(q devices.Quality) bool { return q != devices.Good }) {
		c.Quality = nil
	}
	return c
}

// write is one flush of a chunk of one kind within an hour.
func (tb *table) write(ctx context.Context, series int32, samples []devices.Sample) error {
	k := samples[0].Kind
	c := columnsOf(samples)
	sum := chunk.Summarize(k, c)
	return pgx.BeginFunc(ctx, tb.s.pool, func(tx pgx.Tx) error {
		var flush, generation int64
		if err := tx.QueryRow(ctx, generationShared).Scan(&generation); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, nextFlush).Scan(&flush); err != nil {
			return err
		}
		if _, err := tx.CopyFrom(ctx, pgx.Identifier{"history_chunk"}, chunkColumns, pgx.CopyFromRows([][]any{{sum.Start, flush, sum.First, sum.Last, sum.Min, sum.Max,
			sum.Sum, series, int32(sum.Span), int32(sum.N), int16(k), int16(sum.Quality), true, chunk.Append(nil, k, c)}})); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, insertDirty, pgx.StrictNamedArgs{"series": []int32{series}, "hours": []int32{int32(hourOf(sum.Start))}})
		return err
	})
}

const generationShared = shareGeneration

func (tb *table) put(series int32, samples ...devices.Sample) {
	tb.t.Helper()
	tb.must(tb.write(context.Background(), series, samples))
	for _, s := range samples {
		tb.want[series][s.At] = s
	}
}

// stored is a chunk as it is in the database.
type stored struct {
	header
	chunk.Columns
}

func (tb *table) chunks(series int32) (all []stored) {
	tb.t.Helper()
	rows, _ := tb.s.pool.Query(context.Background(), `select tableoid::bigint as rel, ctid as tid, series, start, flush, span, n, kind, quality, fresh, first, last, min, max, sum, data
		from history_chunk where series = $1 order by flush, start`, series)
	type row struct {
		header
		Data []byte
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[row])
	tb.must(err)
	for _, r := range found {
		st := stored{header: r.header}
		tb.must(chunk.Decode(r.Data, r.Kind, r.Start, int(r.N), &st.Columns))
		all = append(all, st)
	}
	return all
}

// check compares what all chunks of a series make together, headers, and rollups.
func (tb *table) check(series int32) {
	tb.t.Helper()
	got := make(map[int64]devices.Sample)
	all := tb.chunks(series)
	for _, c := range all {
		want := chunk.Summarize(c.Kind, &c.Columns)
		if have := (chunk.Summary{Start: c.Start, Span: int64(c.Span), N: int(c.N), First: c.First, Last: c.Last, Min: c.Min, Max: c.Max, Sum: c.Sum, Quality: c.header.Quality}); have != want {
			tb.t.Errorf("header %+v of a chunk that is %+v", have, want)
		}
		for i, at := range c.Times {
			s := devices.Sample{At: at, Kind: c.Kind, Value: c.Values[i]}
			if len(c.Columns.Quality) > 0 {
				s.Quality = c.Columns.Quality[i]
			}
			if c.Kind == devices.String {
				s.Text = c.Texts[i]
			}
			if c.Kind == devices.Location {
				s.Lon = c.Lons[i]
			}
			got[at] = s
		}
	}
	same := func(a, b devices.Sample) bool {
		if a.Kind.Numeric() && b.Kind.Numeric() {
			a.Kind = b.Kind // a whole number among floats is a float
		}
		return a == b
	}
	if !maps.EqualFunc(got, tb.want[series], same) {
		for at, s := range tb.want[series] {
			if !same(got[at], s) {
				tb.t.Fatalf("series %d: %d samples, want %d; at %d it is %+v, want %+v", series, len(got), len(tb.want[series]), at, got[at], s)
			}
		}
		tb.t.Fatalf("series %d: %d samples, want %d", series, len(got), len(tb.want[series]))
	}
	tb.checkRollups(series, all)
}

// checkRollups compares rollups of hours that are not dirty with what the samples make.
func (tb *table) checkRollups(series int32, all []stored) {
	tb.t.Helper()
	ctx := context.Background()
	rows, _ := tb.s.pool.Query(ctx, `select hour from history_dirty where series = $1`, series)
	dirty, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	tb.must(err)
	type row struct {
		Hour, N                    int32
		Quality                    devices.Quality
		First, Last, Min, Max, Sum float64
	}
	rows, _ = tb.s.pool.Query(ctx, `select hour, n, quality, first, last, min, max, sum from history_hour where series = $1`, series)
	rollups, err := pgx.CollectRows(rows, pgx.RowToStructByName[row])
	tb.must(err)
	have := make(map[int32]row)
	for _, r := range rollups {
		have[r.Hour] = r
	}
	byHour := make(map[int32][]devices.Sample)
	for at, s := range tb.want[series] {
		byHour[int32(hourOf(at))] = append(byHour[int32(hourOf(at))], s)
	}
	for hour := range have {
		if len(byHour[hour]) == 0 {
			tb.t.Errorf("series %d: a rollup of the empty hour %d", series, hour)
		}
	}
	for hour, samples := range byHour {
		if slices.Contains(dirty, hour) {
			continue
		}
		within, mixed := true, false
		var kinds []devices.Kind
		for _, c := range all {
			if hourOf(c.Start) <= int64(hour) && hourOf(c.end()) >= int64(hour) {
				within = within && hourOf(c.Start) == hourOf(c.end())
				kinds = append(kinds, c.Kind)
			}
		}
		for _, k := range kinds {
			_, ok := mergedKind(k, kinds[0])
			mixed = mixed || !ok || !k.Numeric() && k != devices.Bool
		}
		r, ok := have[hour]
		if wanted := within && !mixed && len(samples) > rollupFrom; ok != wanted {
			tb.t.Errorf("series %d, hour %d: %d samples in one kind %t in its own chunks %t, rolled up %t", series, hour, len(samples), !mixed, within, ok)
			continue
		}
		if !ok {
			continue
		}
		s := chunk.Summarize(devices.Float, columnsOf(samples))
		if want := (row{hour, int32(s.N), s.Quality, s.First, s.Last, s.Min, s.Max, s.Sum}); r != want {
			tb.t.Errorf("series %d: rollup %+v, want %+v", series, r, want)
		}
	}
}

// compact compacts all there is to at a time.
func (tb *table) compact(now time.Time) {
	tb.t.Helper()
	for at := firstHour; ; {
		last, more, _, err := tb.s.compactBatch(context.Background(), now, at)
		tb.must(err)
		if !more {
			return
		}
		at = last
	}
}

// shape says how many samples each chunk of a series has, by time.
func (tb *table) shape(series int32) string {
	all := tb.chunks(series)
	slices.SortFunc(all, func(a, b stored) int { return cmp.Compare(a.Start, b.Start) })
	var text strings.Builder
	for _, c := range all {
		text.WriteString(fmt.Sprintf(" %d", c.N))
	}
	return text.String()
}

func (tb *table) dirty() (n int) {
	tb.t.Helper()
	tb.must(tb.s.pool.QueryRow(context.Background(), `select count(*) from history_dirty`).Scan(&n))
	return n
}

// ramp are n samples, so many milliseconds apart.
func ramp(start time.Time, every time.Duration, n int) []devices.Sample {
	out := make([]devices.Sample, n)
	for i := range out {
		out[i] = devices.Sample{At: start.UnixMilli() + int64(i)*every.Milliseconds(), Value: float64(i % 1000)}
	}
	return out
}

var day = time.Date(2026, 11, 18, 0, 0, 0, 0, time.UTC) // a Wednesday

func TestCompaction(t *testing.T) {
	tb := newTable(t)
	want := func(series int32, shape string) {
		t.Helper()
		tb.check(series)
		if got := tb.shape(series); got != shape {
			t.Errorf("chunks of%s, want%s", got, shape)
		}
	}

	fast := tb.series("d", "fast") // 2 Hz: 7200 an hour, and too many for one chunk of the day
	for i := range 72 {
		tb.put(fast, ramp(day.Add(time.Duration(i)*50*time.Second), 500*time.Millisecond, 100)...)
	}
	slow := tb.series("d", "slow") // one each 5 minutes
	for i := range 12 {
		tb.put(slow, ramp(day.Add(time.Duration(i)*5*time.Minute), time.Second, 1)...)
	}
	tb.compact(day.Add(time.Hour + 9*time.Minute))
	if tb.dirty() != 2 {
		t.Errorf("compacted too early: %d hours are dirty", tb.dirty())
	}
	tb.compact(day.Add(time.Hour + 10*time.Minute))
	want(fast, " 3600 3600")
	want(slow, " 12")
	if tb.dirty() != 1 {
		t.Errorf("%d hours are dirty; only the slow day is to be looked at again", tb.dirty())
	}

	tb.put(fast, ramp(day.Add(30*time.Minute+time.Millisecond), time.Second, 1)...) // late: in the second chunk
	tb.put(fast, ramp(day.Add(10*time.Minute), 500*time.Millisecond, 10)...)        // again, other values: in the first
	tb.compact(day.Add(2 * time.Hour))
	want(fast, " 3601 3600")

	for h := 1; h < 20; h++ {
		tb.put(slow, ramp(day.Add(time.Duration(h)*time.Hour), 5*time.Minute, 12)...)
	}
	tb.compact(day.Add(24*time.Hour + 9*time.Minute))
	if n := len(tb.chunks(slow)); n != 20 {
		t.Errorf("%d chunks before the day is over, want 20", n)
	}
	tb.compact(day.Add(24*time.Hour + 10*time.Minute))
	want(slow, " 240")
	if tb.dirty() != 0 {
		t.Errorf("%d hours left", tb.dirty())
	}
	tb.put(slow, ramp(day.Add(20*time.Hour), 5*time.Minute, 3)...) // late: the day is made anew
	tb.put(slow, ramp(day.Add(3*time.Hour+time.Minute), time.Second, 1)...)
	tb.compact(day.Add(30 * time.Hour))
	want(slow, " 244")
	tb.put(slow, ramp(day.Add(5*time.Hour), time.Second, 1000)...) // too many now: back to hours
	tb.compact(day.Add(30 * time.Hour))
	want(slow, " 12 12 12 13 12 1008 12 12 12 12 12 12 12 12 12 12 12 12 12 12 3")

	odd := tb.series("d", "odd") // it changes its kind
	tb.put(odd, ramp(day, time.Second, 600)...)
	for i := range 2 {
		s := ramp(day.Add(time.Duration(10+i)*time.Minute), time.Second, 600)
		for j := range s {
			s[j].Kind, s[j].Value, s[j].Text = devices.String, 0, fmt.Sprint("state ", j%3)
		}
		tb.put(odd, s...)
	}
	early := ramp(day.Add(-300000*time.Hour), time.Second, 300) // a clock that is wrong by decades
	tb.put(odd, early[:100]...)
	tb.put(odd, early[100:]...)
	tb.compact(day.Add(48 * time.Hour))
	want(odd, " 300 600 660")
	if tb.dirty() != 0 {
		t.Errorf("%d hours left", tb.dirty())
	}
}

// Whatever was written, late or twice, and whenever it was compacted: the samples are those that a merge of all chunks gives, and
// headers and rollups are theirs.
func TestCompactionChangesNothing(t *testing.T) {
	base := newTable(t)
	series := 0
	rapid.Check(t, func(r *rapid.T) {
		tb := &table{t: r, s: base.s, want: make(map[int32]map[int64]devices.Sample)}
		var ids []int32
		for range rapid.IntRange(1, 3).Draw(r, "series") {
			series++
			ids = append(ids, tb.series("d", fmt.Sprint(series)))
		}
		kinds := []devices.Kind{devices.Float, devices.Float, devices.Float, devices.Int, devices.Bool, devices.String, devices.Location}
		mixed := rapid.IntRange(0, 3).Draw(r, "mixed") == 0
		kind := kinds[rapid.IntRange(0, len(kinds)-1).Draw(r, "kind")]
		now := day
		for range rapid.IntRange(1, 25).Draw(r, "steps") {
			switch rapid.IntRange(0, 5).Draw(r, "step") {
			case 0:
				tb.compact(now)
			case 1:
				now = now.Add(time.Duration(rapid.IntRange(1, 600).Draw(r, "minutes")) * time.Minute)
			default:
				if mixed {
					kind = kinds[rapid.IntRange(0, len(kinds)-1).Draw(r, "kind")]
				}
				hour := day.Add(time.Duration(rapid.IntRange(0, 3).Draw(r, "hour")+12*rapid.IntRange(0, 3).Draw(r, "half")) * time.Hour)
				start := hour.Add(time.Duration(rapid.IntRange(0, 59).Draw(r, "minute")) * time.Minute)
				every := time.Duration(rapid.SampledFrom([]int{1, 50, 1000, 7000}).Draw(r, "every")) * time.Millisecond
				samples := ramp(start, every, rapid.SampledFrom([]int{1, 2, 30, 300, 1024, 3000}).Draw(r, "n"))
				end := slices.IndexFunc(samples, func(s devices.Sample) bool { return s.At >= hour.Add(time.Hour).UnixMilli() })
				if end >= 0 {
					samples = samples[:end]
				}
				add := float64(rapid.IntRange(-5, 5).Draw(r, "add"))
				bad := rapid.Bool().Draw(r, "bad")
				for i := range samples {
					s := &samples[i]
					s.Kind, s.Value = kind, s.Value+add
					if bad && i%3 == 0 {
						s.Quality = devices.Bad
					}
					switch kind {
					case devices.Bool:
						s.Value = float64(i & 1)
					case devices.String:
						s.Value, s.Text = 0, fmt.Sprint(s.Value)
					case devices.Location:
						s.Value, s.Lon = s.Value/100, add
					}
				}
				tb.put(ids[rapid.IntRange(0, len(ids)-1).Draw(r, "of")], samples...)
			}
			for _, id := range ids {
				tb.check(id)
			}
		}
		tb.compact(day.Add(100 * time.Hour))
		for _, id := range ids {
			tb.check(id)
			if !mixed {
				tb.tidy(id)
			}
		}
		if n := tb.dirty(); n != 0 {
			r.Errorf("%d hours left", n)
		}
	})
}

// tidy checks what compaction makes of a series of one kind.
func (tb *table) tidy(series int32) {
	tb.t.Helper()
	all := tb.chunks(series)
	slices.SortFunc(all, func(a, b stored) int { return cmp.Compare(a.Start, b.Start) })
	perDay := make(map[int64]int)
	for _, c := range all {
		perDay[floorDiv(c.Start, dayMs)] += int(c.N)
	}
	for i, c := range all {
		if n := perDay[floorDiv(c.Start, dayMs)]; n <= maxDay && int(c.N) != n {
			tb.t.Errorf("a slow day of %d in several chunks", n)
		} else if n > maxDay && crosses(&c.header) || c.N > maxCompacted {
			tb.t.Errorf("a chunk of %d samples of %d that day, %d ms long", c.N, n, c.Span)
		}
		if i == 0 {
			continue
		}
		before := all[i-1]
		if before.end() >= c.Start {
			tb.t.Errorf("chunks still overlap")
		}
		if hourOf(before.Start) == hourOf(c.Start) && before.N < fullChunk && c.N < fullChunk {
			tb.t.Errorf("two small chunks side by side: %d and %d", before.N, c.N)
		}
	}
}

// A chunk that can't be read stops nothing but the compaction of what is around it.
func TestCompactionOfCorruptChunk(t *testing.T) {
	tb := newTable(t)
	bad, good := tb.series("d", "bad"), tb.series("d", "good")
	for _, id := range []int32{bad, good} {
		for i := range 3 {
			tb.put(id, ramp(day.Add(time.Duration(i)*10*time.Minute), time.Second, 600)...)
		}
	}
	tb.exec(`update history_chunk set data = '\xff' where series = $1 and start = $2`, bad, day.UnixMilli())
	tb.compact(day.Add(2 * time.Hour))
	tb.check(good)
	if got := tb.shape(good); got != " 1800" || tb.dirty() != 0 {
		t.Errorf("chunks of%s; %d hours left", got, tb.dirty())
	}
	if n := tb.count(`select count(*) from history_chunk where series = $1`, bad); n != 3 {
		t.Errorf("%d chunks, of 3, one of which can't be read", n)
	}
	if n := tb.count(`select n from history_hour where series = $1`, bad); n != 1800 { // the rows' figures are right
		t.Errorf("rolled up %d", n)
	}
}

func TestPlan(t *testing.T) {
	hours := int64(day.UnixMilli() / hourMs)
	at := func(minute, minutes, n int, k devices.Kind, fresh bool) header {
		return header{Start: day.UnixMilli() + int64(minute)*60_000, Span: int32(minutes)*60_000 - 1, N: int32(n), Kind: k, Fresh: fresh}
	}
	f := func(final bool, dirty []int32, there []header, want string) {
		t.Helper()
		for i := range dirty {
			dirty[i] += int32(hours)
		}
		p := planUnit(&unit{day: floorDiv(day.UnixMilli(), dayMs), final: final, hours: dirty, there: there})
		var got strings.Builder
		for _, r := range p.runs {
			got.WriteString("run")
			for _, h := range r.chunks {
				got.WriteString(fmt.Sprint(" ", h.N))
			}
			if r.move {
				got.WriteString(" moves")
			}
			if r.fresh {
				got.WriteString(" fresh")
			}
			if r.hourly {
				got.WriteString(" hourly")
			}
			got.WriteString("; ")
		}
		got.WriteString("kept")
		for _, h := range p.kept {
			got.WriteString(fmt.Sprint(" ", h.N))
		}
		got.WriteString(fmt.Sprint("; hours ", len(p.hours)))
		if p.mark {
			got.WriteString("; mark")
		}
		if got.String() != want {
			t.Errorf("%s, want %s", got.String(), want)
		}
	}
	const big = maxOverlap/2 + 1
	f(true, []int32{0}, nil, "kept; hours 24")
	f(false, []int32{0}, nil, "kept; hours 1")
	f(false, []int32{0}, []header{at(0, 10, 5, 0, true)}, "kept 5; hours 1; mark")
	f(false, []int32{0}, []header{at(0, 10, 5, 0, true), at(10, 10, 6, 0, true)}, "run 5 6 fresh; kept; hours 1; mark")
	f(true, []int32{23}, []header{at(0, 20, 11, 0, true)}, "run 11 moves; kept; hours 24")
	f(true, []int32{23}, []header{at(0, 20, 11, 0, false)}, "kept 11; hours 24")
	f(true, []int32{23}, []header{at(0, 20, 11, 0, true), at(70, 20, 12, 0, false)}, "run 11 12; kept; hours 24")
	// Full ones stay, small ones beside them join.
	f(true, []int32{0}, []header{at(0, 20, 4000, 0, false), at(20, 1, 9, 0, true), at(30, 20, 4000, 0, false)}, "run 9 moves; kept 4000 4000; hours 1")
	f(true, []int32{0}, []header{at(0, 20, 4000, 0, false), at(19, 1, 9, 0, true), at(30, 20, 4000, 0, false)}, "run 4000 9; kept 4000; hours 1")
	f(true, []int32{0}, []header{at(0, 20, 900, 0, true), at(20, 1, 900, 0, true), at(30, 20, 900, 0, true)}, "run 900 900 900; kept; hours 1")
	// An hour compacted when the day seemed slow is still among the fresh ones.
	f(false, []int32{1}, []header{at(0, 20, 900, 0, true), at(60, 10, 900, 0, true), at(70, 10, 900, 0, true)}, "run 900 900; run 900 moves; kept; hours 2")
	// A day that is no longer slow is cut at its hours.
	f(true, []int32{3}, []header{at(0, 600, 1000, 0, false), at(180, 10, 900, 0, true)}, "run 1000 900 hourly; kept; hours 24")
	// Whole numbers become floats; else kinds don't mix, and what lies between parts.
	f(true, []int32{0}, []header{at(0, 10, 2000, devices.Int, true), at(10, 10, 2000, devices.Float, true)}, "run 2000 2000; kept; hours 1")
	f(true, []int32{0}, []header{at(0, 10, 1000, 0, true), at(10, 10, 1000, devices.Bool, true), at(20, 10, 1000, 0, true)}, "run 1000 moves; run 1000 moves; run 1000 moves; kept; hours 1")
	f(true, []int32{0}, []header{at(0, 11, 1000, 0, false), at(10, 10, 1000, devices.Bool, false), at(20, 10, 1000, 0, false)}, "kept 1000 1000 1000; hours 1")
	// Too much to hold in memory.
	f(true, []int32{0}, []header{at(0, 30, big, 0, false), at(0, 40, big, 0, false), at(45, 1, 5, 0, true), at(46, 1, 5, 0, true)}, fmt.Sprintf("run 5 5; kept %d %d; hours 1", big, big))
}
