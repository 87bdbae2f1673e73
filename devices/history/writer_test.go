package history

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/devices"
)

// noon is a whole hour, in the week of the partition history_chunk_20261116.
const noon = 1_795_435_200_000 - 1_795_435_200_000%hour

func number(id devices.SeriesID, at int64, v float64) devices.Sample {
	k := devices.Float
	if v == math.Trunc(v) {
		k = devices.Int
	}
	return devices.Sample{Series: id, Kind: k, At: at, Recv: at, Value: v}
}

func TestWriter(t *testing.T) {
	f := newFixture(t, Config{})
	temp, name, place, on := f.series("a", "temp", devices.Float), f.series("b", "name", devices.String), f.series("a", "place", devices.Location), f.series("a", "on", devices.Bool)
	w, position := f.newWriter()
	if position != 0 {
		t.Errorf("begins at %d", position)
	}
	f.flush(w) // nothing
	f.send(w, number(temp, noon+1, 1.5), number(temp, noon+3, 3.5))
	f.send(w, number(temp, noon+2, 2), number(temp, noon+3, 3.25), // late, and repeated
		devices.Sample{Series: name, Kind: devices.String, At: noon + 1, Text: "x\x00y"},
		devices.Sample{Series: place, Kind: devices.Location, At: noon + 1, Value: 52.5, Lon: 13.4, Quality: devices.Uncertain},
		devices.Sample{Series: on, Kind: devices.Bool, At: noon + 1, Value: 1})
	want := []string{fmt.Sprintf("f%d=1.5", noon+1), fmt.Sprintf("f%d=2", noon+2), fmt.Sprintf("f%d=3.25", noon+3)}
	head := w.Head([]devices.SeriesID{name, temp, 4000}, noon, noon+1000)
	equalTexts(t, "head", headTexts(head[1]), want...)
	equalTexts(t, "head from the second to before the third", headTexts(w.Head([]devices.SeriesID{temp}, noon+2, noon+3)[0]), want[1])
	if len(head) != 3 || head[2] != nil || len(head[0]) != 1 || head[0][0].Texts[0] != "x\x00y" {
		t.Errorf("head %+v", head)
	}
	f.flush(w)
	equalTexts(t, "temp", f.samples("a", "temp"), want...)
	equalTexts(t, "name", f.samples("b", "name"), fmt.Sprintf("s%d=x\x00y", noon+1))
	equalTexts(t, "place", f.samples("a", "place"), fmt.Sprintf("l%d=52.5,13.4/uncertain", noon+1))
	equalTexts(t, "on", f.samples("a", "on"), fmt.Sprintf("b%d=1", noon+1))
	if head := w.Head([]devices.SeriesID{temp}, noon, noon+1000); head[0] != nil {
		t.Errorf("after the flush the head is %+v", head)
	}
	// The next flush is right where both have a sample.
	f.send(w, number(temp, noon+2, 22.5), number(temp, noon+4, 4.5))
	f.flush(w)
	equalTexts(t, "temp", f.samples("a", "temp"), want[0], fmt.Sprintf("f%d=22.5", noon+2), want[2], fmt.Sprintf("f%d=4.5", noon+4))
	f.send(w) // of deleted devices only
	f.flush(w)
	if st := w.Stats(); st.Samples != 8 || st.Chunks != 5 || st.Repeated != 1 || st.Flushes != 3 || st.Position != 4 || st.Delivered != 4 || st.Pending != 0 || st.Away {
		t.Errorf("%+v", st)
	}
	if fmt.Sprint(f.released) != "[2 3 4]" {
		t.Errorf("released %v", f.released)
	}
	if n := f.count(`select count(*) from history_dirty where hour = $1`, noon/hour); n != 4 {
		t.Errorf("%d series have a dirty hour", n)
	}
	// After a restart it goes on; in another life of the stream it begins at its start.
	if _, position := f.newWriter(); position != 4 {
		t.Errorf("after a restart it begins at %d", position)
	}
	if _, position, err := f.NewWriter(t.Context(), "life-2", func(uint64) {}); position != 0 || err != nil {
		t.Errorf("in another life it begins at %d: %v", position, err)
	}
	f.send(w, number(temp, noon+5, 5))
	if err := w.Flush(t.Context()); !errors.Is(err, errMoved) {
		t.Errorf("the writer of the life before: %v", err)
	}
}

// Chunks end at hours of UTC and after 1024 samples, and each has one kind.
func TestChunksAreCut(t *testing.T) {
	f := newFixture(t, Config{})
	w, _ := f.newWriter()
	id := f.series("a", "m", devices.Int)
	cut := func(samples ...devices.Sample) (out string) {
		t.Helper()
		f.exec("truncate history_chunk")
		f.send(w, samples...)
		f.flush(w)
		for _, c := range f.chunks("a", "m") {
			out += fmt.Sprintf("%v %d+%d ×%d, ", c.kind, c.start-noon, c.span, c.n)
			if int(c.n) != c.Len() || c.Times[0] != c.start || c.Times[c.n-1] != c.start+int64(c.span) {
				t.Errorf("a chunk says %d+%d ×%d and holds %v", c.start, c.span, c.n, c.Times)
			}
		}
		return strings.TrimSuffix(out, ", ")
	}
	check := func(want string, samples ...devices.Sample) {
		t.Helper()
		if got := cut(samples...); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	text := func(at int64) devices.Sample {
		return devices.Sample{Series: id, Kind: devices.String, At: noon + at, Text: "on"}
	}
	check("int 0+1 ×2", number(id, noon, 1), number(id, noon+1, 2))
	check("int -1+0 ×1, int 0+3599999 ×2, int 3600000+0 ×1", number(id, noon-1, 1), number(id, noon, 1), number(id, noon+hour-1, 2), number(id, noon+hour, 2))
	check("int -1795435200001+0 ×1, int -1795435200000+0 ×1", number(id, -1, 1), number(id, 0, 1))
	var many []devices.Sample
	for i := range int64(2500) {
		many = append(many, number(id, noon+i*10, 1))
	}
	check("int 0+10230 ×1024, int 10240+10230 ×1024, int 20480+4510 ×452", many...)
	check("int 0+0 ×1, string 1+1 ×2, int 3+0 ×1", number(id, noon, 1), text(1), text(2), number(id, noon+3, 1))
	check("float 0+1 ×2, string 2+0 ×1, int 3+0 ×1", number(id, noon, 1), number(id, noon+1, 1.5), text(2), number(id, noon+3, 1))
	// In the order of time, not of arrival; and the last received is right, whatever its kind.
	check("string 0+1 ×2, float 2+1 ×2", text(0), number(id, noon+3, 1), text(1), number(id, noon+2, 1.5), text(2), number(id, noon+2, 1.5))
	f.series("a", "m", devices.Float)
	check("float 0+0 ×1", number(id, noon, 1)) // it is known to have had fractions
}

// A sample of each kind after one of each other kind.
func TestKindsMix(t *testing.T) {
	f := newFixture(t, Config{})
	w, _ := f.newWriter()
	id := f.series("a", "m", devices.String)
	one := map[devices.Kind]devices.Sample{
		devices.Float:    {Kind: devices.Float, Value: 1.5},
		devices.Bool:     {Kind: devices.Bool, Value: 1, Quality: devices.Bad},
		devices.String:   {Kind: devices.String, Text: "on"},
		devices.Location: {Kind: devices.Location, Value: 1, Lon: 2},
	}
	text := map[devices.Kind]string{devices.Float: "=1.5", devices.Bool: "=1/bad", devices.String: "=on", devices.Location: "=1,2"}
	at, want := int64(noon), []string(nil)
	for a := range one {
		for b := range one {
			for _, k := range []devices.Kind{a, b, a} {
				s := one[k]
				s.Series, s.At = id, at
				f.send(w, s)
				want = append(want, fmt.Sprintf("%c%d%s", k.String()[0], at, text[k]))
				at++
			}
		}
	}
	equalTexts(t, "head", headTexts(w.Head([]devices.SeriesID{id}, noon, at)[0]), want...)
	f.flush(w)
	equalTexts(t, "recorded", f.samples("a", "m"), want...)
}

// What PostgreSQL refuses is parked, with the reason, and nothing else.
func TestRefusedChunksAreParked(t *testing.T) {
	f := newFixture(t, Config{})
	w, _ := f.newWriter()
	f.exec("alter table history_chunk add constraint unlucky check (last <> 13)")
	var batch []devices.Sample
	for i := range 40 {
		batch = append(batch, number(f.series("a", fmt.Sprintf("m%d", i), devices.Int), noon+int64(i), float64(i)))
	}
	batch = append(batch, number(f.series("b", "early", devices.Int), math.MinInt64+1, 1))
	f.send(w, batch...)
	f.flush(w)
	newest, chunks, samples, err := f.Parked(t.Context(), 10)
	if err != nil || chunks != 2 || samples != 2 || len(newest) != 2 {
		t.Fatalf("%+v, %d chunks, %d samples, %v", newest, chunks, samples, err)
	}
	if p := newest[1]; p.Device != "a" || p.Metric != "m13" || p.N != 1 || p.Start != noon+13 || !strings.Contains(p.Reason, "unlucky") || p.Kind != devices.Int {
		t.Errorf("%+v", p)
	}
	if p := newest[0]; p.Metric != "early" || !strings.Contains(p.Reason, "time") {
		t.Errorf("%+v", p)
	}
	if st := w.Stats(); st.Samples != 39 || st.Chunks != 39 || st.Parked != 2 || st.ParkedSamples != 2 || st.Position != 1 || st.Pending != 0 {
		t.Errorf("%+v", st)
	}
	for i := range 40 {
		if got := f.samples("a", fmt.Sprintf("m%d", i)); (len(got) == 1) == (i == 13) {
			t.Errorf("m%d: %v", i, got)
		}
	}
}

// A full disk is no fault of the data: nothing is parked, and all is written when there is room again.
func TestDiskFull(t *testing.T) {
	f := newFixture(t, Config{})
	w, _ := f.newWriter()
	f.exec(`create function full_disk() returns trigger language plpgsql as $$ begin raise 'no space left' using errcode = '53100'; end $$`)
	f.exec(`create trigger full_disk before insert on history_fresh for each row execute function full_disk()`)
	f.send(w, number(f.series("a", "m", devices.Int), noon, 1), number(f.series("b", "m", devices.Int), noon, 1))
	for range 2 {
		if err := w.Flush(t.Context()); !errors.Is(err, devices.ErrUnavailable) {
			t.Errorf("%v", err)
		}
	}
	if st := w.Stats(); !st.Away || st.Failed != 2 || st.Pending != 2 || st.Position != 0 || st.Parked != 0 {
		t.Errorf("%+v", st)
	}
	f.exec("drop trigger full_disk on history_fresh")
	f.flush(w)
	if st := w.Stats(); st.Away || st.Samples != 2 || st.Position != 1 || st.Parked != 0 || f.count("select count(*) from history_parked") != 0 {
		t.Errorf("%+v", st)
	}
}

// When a device is deleted and made again, its new samples don't go to the series that is being deleted.
func TestDeletedDevice(t *testing.T) {
	f := newFixture(t, Config{})
	w, _ := f.newWriter()
	old, other := f.series("a", "m", devices.Int), f.series("b", "m", devices.Int)
	f.send(w, number(old, noon, 1), number(other, noon, 1))
	f.flush(w)
	ids, err := f.DiskIDs(t.Context(), []devices.SeriesID{old, other, old})
	if err != nil || ids[0] == 0 || ids[1] == 0 || ids[0] != ids[2] {
		t.Fatalf("%v, %v", ids, err)
	}
	f.send(w, number(old, noon+1, 1), number(other, noon+1, 1)) // the catalog does not know yet
	f.exec("update history_generation set n = n + 1")
	f.exec("with gone as (delete from history_series where device = 'a' returning id) insert into history_doomed select id from gone")
	f.exec("delete from device where id = 'a'")
	f.flush(w)
	if n := f.count("select count(*) from history_series"); n != 1 || w.Stats().LeftOut != 1 {
		t.Errorf("%d series, %+v", n, w.Stats())
	}
	f.send(w, number(old, noon+2, 1))
	if err := f.catalog.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.flush(w)
	if st := w.Stats(); st.LeftOut != 2 || st.Position != 3 {
		t.Errorf("%+v", st)
	}
	f.device("a")
	again := f.series("a", "m", devices.Int)
	if now, err := f.DiskIDs(t.Context(), []devices.SeriesID{again, other}); err != nil || now[0] != 0 || now[1] != ids[1] {
		t.Errorf("%v, %v", now, err)
	}
	f.send(w, number(again, noon+3, 1), number(other, noon+3, 1))
	f.flush(w)
	now, err := f.DiskIDs(t.Context(), []devices.SeriesID{again, other})
	if err != nil || now[0] == 0 || now[0] == ids[0] || now[1] != ids[1] {
		t.Errorf("%v was %v, %v", now, ids, err)
	}
	equalTexts(t, "a", f.samples("a", "m"), fmt.Sprintf("i%d=1", noon+3))
	if n := len(f.samples("b", "m")); n != 3 {
		t.Errorf("b has %d samples", n)
	}
	if n := f.count("select count(*) from history_chunk where series = $1", ids[0]); n != 1 {
		t.Errorf("%d chunks of the deleted series", n)
	}
}

// An hour is noted anew when it may have been compacted.
func TestDirtyHours(t *testing.T) {
	f := newFixture(t, Config{})
	w, _ := f.newWriter()
	id := f.series("a", "m", devices.Int)
	dirty := func(at int64) bool {
		t.Helper()
		f.exec("truncate history_dirty")
		f.send(w, number(id, at, 1))
		f.flush(w)
		return f.count("select count(*) from history_dirty where hour = $1", hourOf(at)) == 1
	}
	next := time.Now().UnixMilli() + hour // it does not end while we look
	ended := next - 2*hour
	if !dirty(next) || dirty(next+1) || !dirty(ended) || !dirty(ended) || !dirty(next+2) {
		t.Error("only an hour that has not ended and was the last to be noted need not be noted again")
	}
}

// While the database is away the writer gathers up to its bound, then blocks, and goes on when it is back. Nothing is missing.
func TestDatabaseAway(t *testing.T) {
	f := newFixture(t, Config{Flush: time.Hour, Pending: 20_000})
	w, _ := f.newWriter()
	id := f.series("a", "m", devices.Int)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	f.exec("alter table history_chunk rename to away")
	running.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	const messages, each = 50, 1000
	delivered := make(chan struct{})
	go func() {
		defer close(delivered)
		at := int64(noon)
		for range messages {
			batch := make([]devices.Sample, each)
			for i := range batch {
				batch[i] = number(id, at, float64(at-noon))
				at++
			}
			f.send(w, batch...)
		}
	}()
	soon(t, "it blocks", func() bool { st := w.Stats(); return st.Blocked && st.Away })
	if st := w.Stats(); st.Pending != 20_000 || st.Position != 0 || st.Delivered != 20 {
		t.Errorf("%+v", st)
	}
	if n := len(headTexts(w.Head([]devices.SeriesID{id}, noon, noon+1_000_000)[0])); n != 20_000 {
		t.Errorf("the head has %d samples", n)
	}
	f.exec("alter table away rename to history_chunk")
	<-delivered
	f.flush(w)
	if got := f.samples("a", "m"); len(got) != messages*each {
		t.Errorf("%d samples", len(got))
	}
	if st := w.Stats(); st.Away || st.Blocked || st.Waits == 0 || st.Position != messages || st.Samples != messages*each {
		t.Errorf("%+v", st)
	}
}

// Told to stop while it blocks, Deliver returns, and the last flush gives up in time: what was not written is read again.
func TestStopWhileBlocked(t *testing.T) {
	f := newFixture(t, Config{Flush: time.Hour, Pending: 10_000})
	w, _ := f.newWriter()
	id := f.series("a", "m", devices.Int)
	f.exec("alter table history_chunk rename to away")
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	delivered := make(chan struct{})
	go func() {
		defer close(delivered)
		for i := range int64(30) {
			batch := make([]devices.Sample, 1000)
			for j := range batch {
				batch[j] = number(id, noon+i*1000+int64(j), 1)
			}
			f.send(w, batch...)
		}
	}()
	soon(t, "it blocks", func() bool { return w.Stats().Blocked })
	w.Halt()
	<-delivered
	stop()
	running.Wait()
	if st := w.Stats(); st.Delivered != 10 || st.Position != 0 {
		t.Errorf("%+v", st)
	}
	f.exec("alter table away rename to history_chunk")
	w, position := f.newWriter()
	if position != 0 {
		t.Errorf("begins at %d", position)
	}
	// What was gathered when it was told to stop is written at the end of Run.
	w.Deliver(1, []devices.Sample{number(id, noon, 1)})
	w.Halt()
	w.Deliver(2, []devices.Sample{number(id, noon+1, 1)})
	ctx, stop = context.WithCancel(t.Context())
	stop()
	if err := w.Run(ctx); err != nil {
		t.Error(err)
	}
	if _, position := f.newWriter(); position != 1 {
		t.Errorf("begins at %d", position)
	}
}

// The answer of a commit is lost: the next try finds that all is there.
func TestCommitWithoutAnswer(t *testing.T) {
	f := newFixture(t, Config{})
	w, _ := f.newWriter()
	id := f.series("a", "m", devices.Int)
	f.send(w, number(id, noon, 1))
	b, _ := w.take()
	if err := w.write(t.Context(), b); err != nil { // and nobody is told
		t.Fatal(err)
	}
	f.send(w, number(id, noon+1, 2))
	f.flush(w)
	if chunks := f.chunks("a", "m"); len(chunks) != 2 || w.Stats().Samples != 2 {
		t.Errorf("%d chunks, %+v", len(chunks), w.Stats())
	}
	if fmt.Sprint(f.released) != "[1 2]" {
		t.Errorf("released %v", f.released)
	}
}

// Of two writers each sample is written by one: the other gives up what it gathered, and reads on from where the first one stands.
func TestTwoWriters(t *testing.T) {
	f := newFixture(t, Config{Flush: time.Hour, Pending: 20_000})
	one, _ := f.newWriter()
	two, _ := f.newWriter()
	id := f.series("a", "m", devices.Int)
	message := func(n uint64) (uint64, []devices.Sample) {
		return n, []devices.Sample{number(id, noon+int64(n), float64(n))}
	}
	rewound := make(chan uint64, 1)
	two.Rewind = func(seq uint64, ready func()) {
		two.Deliver(message(5)) // what was on its way is not taken
		ready()
		for n := seq; n <= 5; n++ {
			two.Deliver(message(n))
		}
		rewound <- seq
	}
	for n := range uint64(3) {
		one.Deliver(message(n + 1))
	}
	for n := range uint64(4) {
		two.Deliver(message(n + 1))
	}
	f.flush(one)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := two.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	two.wake()
	if seq := <-rewound; seq != 4 {
		t.Errorf("went back to %d", seq)
	}
	stop()
	running.Wait()
	if got := f.chunks("a", "m"); len(got) != 2 || got[0].n != 3 || got[1].n != 2 {
		t.Errorf("%+v", got)
	}
	if st := two.Stats(); st.Moved != 1 || st.Position != 5 || st.Samples != 2 {
		t.Errorf("%+v", st)
	}
	one.Deliver(message(4))
	if err := one.Run(ctx); err != nil { // its last flush finds that it has been overtaken, and says so
		t.Error(err)
	}
	if got := f.samples("a", "m"); len(got) != 5 {
		t.Errorf("%v", got)
	}
}

// A database that has forgotten its last transactions (restored, or not synced when it fell) gets them again.
func TestDatabaseGoesBack(t *testing.T) {
	f := newFixture(t, Config{Flush: time.Hour})
	w, _ := f.newWriter()
	id := f.series("a", "m", devices.Int)
	message := func(n uint64) (uint64, []devices.Sample) {
		return n, []devices.Sample{number(id, noon+int64(n), float64(n))}
	}
	rewound := make(chan struct{})
	w.Rewind = func(seq uint64, ready func()) {
		ready()
		for n := seq; n <= 4; n++ {
			w.Deliver(message(n))
		}
		close(rewound)
	}
	for n := range uint64(3) {
		w.Deliver(message(n + 1))
		f.flush(w)
	}
	f.exec("update stream_position set seq = 1 where reader = 'history'")
	f.exec("delete from history_chunk where start > $1", noon+1)
	f.exec("delete from history_series")
	w.Deliver(message(4))
	w.wake()
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	<-rewound
	stop()
	running.Wait()
	if got := f.samples("a", "m"); len(got) != 3 { // and what was there of an id that is gone
		t.Errorf("%v", got)
	}
	if got := w.Stats(); got.Position != 4 || got.Moved != 1 {
		t.Errorf("%+v", got)
	}
}

// Pure waiting, without a database: a message larger than all that may wait is taken when nothing else waits.
func TestDeliverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &Writer{store: New(nil, nil, Config{Pending: 10_000}, quiet), kick: make(chan struct{}, 1)}
		w.room.L = &w.mu
		w.Deliver(1, make([]devices.Sample, 15_000))
		done := make(chan struct{})
		go func() {
			w.Deliver(2, make([]devices.Sample, 1))
			close(done)
		}()
		synctest.Wait()
		if st := w.Stats(); !st.Blocked || st.Delivered != 1 {
			t.Errorf("%+v", st)
		}
		b, _ := w.take()
		synctest.Wait()
		if st := w.Stats(); !st.Blocked || st.Pending != 15_000 {
			t.Errorf("%+v", st)
		}
		w.done(b, nil, 0)
		<-done
		text := devices.Sample{Series: 1, Kind: devices.String, Text: strings.Repeat("x", 1024)}
		w.Deliver(3, []devices.Sample{text})
		if st := w.Stats(); st.Blocked || st.Delivered != 3 || st.Pending != 1+65 || st.Position != 1 {
			t.Errorf("%+v", st)
		}
	})
}

func TestDeliverAllocatesNothing(t *testing.T) {
	w := &Writer{store: New(nil, nil, Config{Pending: math.MaxInt}, quiet), kick: make(chan struct{}, 1)}
	batch := make([]devices.Sample, 100)
	for i := range batch {
		batch[i] = number(devices.SeriesID(i%10+1), int64(i), 1)
	}
	round := func() {
		w.Deliver(w.seq+1, batch)
		b, _ := w.take()
		w.done(b, nil, 0)
	}
	round()
	round()
	if n := testing.AllocsPerRun(100, func() { w.Deliver(w.seq+1, batch[:0]) }); n != 0 {
		t.Errorf("%v allocations for a message without samples", n)
	}
	if n := testing.AllocsPerRun(100, round); n > 3 { // the batch, not the samples
		t.Errorf("%v allocations for a round of 100 samples", n)
	}
}

// A device that rounds something tiny below zero sends a negative zero. It takes no more room than another number.
func TestNegativeZero(t *testing.T) {
	f := newFixture(t, Config{})
	w, _ := f.newWriter()
	a := f.series("a", "m", devices.Float)
	var batch []devices.Sample
	for i := range int64(1000) {
		batch = append(batch, number(a, noon+i, math.Round(math.Sin(float64(i)))/100))
	}
	f.send(w, batch...)
	f.flush(w)
	if n := f.count("select sum(length(data)) from history_chunk"); n > 1000 {
		t.Errorf("%d bytes of a thousand samples", n)
	}
}
