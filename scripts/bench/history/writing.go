package main

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
)

// A shape is what a series' values look like.
type shape struct {
	name string
	kind devices.Kind
	next func(i int, last float64, r *rand.Rand) float64
	text func(v float64) string
}

var shapes = []shape{
	{"smooth, two decimals", devices.Float, smooth, nil},
	{"noise, all digits", devices.Float, func(_ int, _ float64, r *rand.Rand) float64 { return r.NormFloat64() * 100 }, nil},
	{"counter", devices.Int, func(_ int, last float64, r *rand.Rand) float64 { return last + float64(r.IntN(4)) }, nil},
	{"state (number)", devices.Int, state, nil},
	{"state (text)", devices.String, state, func(v float64) string { return "state-" + strconv.Itoa(int(v)) }},
}

// smooth wanders by some hundredths.
func smooth(_ int, last float64, r *rand.Rand) float64 {
	return math.Round(last*100+r.NormFloat64()*3) / 100
}

// state changes now and then.
func state(_ int, last float64, r *rand.Rand) float64 {
	if r.IntN(50) == 0 {
		return float64(r.IntN(5))
	}
	return last
}

var rates = []struct {
	name string
	step int64 // milliseconds
}{{"1/min", 60_000}, {"1 Hz", 1000}, {"10 Hz", 100}, {"50 Hz", 20}}

// writing writes the same samples as chunks of 60 and as rows, in the order in which they would come, and compacts the chunks.
func (b *bench) writing(ctx context.Context, series int, only string) error {
	const each = 1200 // samples of each series
	fmt.Printf("%d series, %d samples of each; fresh: chunks of 60; B: bytes on disk a sample, with indexes and TOAST; M/s: million samples a second of PostgreSQL's CPU\n\n", series, each)
	fmt.Println("| values | rate | fresh B | compacted B | row B | chunks M/s | rows M/s | chunks/rows |")
	fmt.Println("|---|---|---|---|---|---|---|---|")
	for _, s := range shapes {
		for _, rate := range rates {
			if !strings.Contains(s.name+" "+rate.name, only) {
				continue
			}
			if err := b.shape(ctx, s, rate.name, rate.step, series, each); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) shape(ctx context.Context, s shape, rate string, step int64, series, each int) error {
	if err := b.exec(ctx, `truncate history_chunk, history_dirty, history_hour`, `drop table if exists sample_row`,
		`create table sample_row (series int not null, time timestamptz not null, value float8, text text)`, `create index on sample_row (series, time)`, `vacuum`, `checkpoint`); err != nil {
		return err
	}
	b.record(ctx)
	ids := make([]devices.SeriesID, series)
	last := make([]float64, series)
	r := rand.New(rand.NewPCG(7, uint64(step)))
	for i := range ids {
		var err error
		if ids[i], err = b.series(fmt.Sprintf("%s %s %d", strings.ReplaceAll(s.name, "/", " "), strings.ReplaceAll(rate, "/", " a "), i), s.kind); err != nil {
			return err
		}
		last[i] = 20 + float64(i)
		if s.text != nil || s.kind == devices.Int {
			last[i] = float64(i % 5)
		}
	}
	begin := time.Now().Add(-time.Duration(int64(each)*step+2*3_600_000)*time.Millisecond).UnixMilli() / 3_600_000 * 3_600_000
	var batches [][]devices.Sample // each of 60 samples of every series
	for from := 0; from < each; from += 60 {
		var batch []devices.Sample
		for i := from; i < from+60; i++ {
			for n := range ids {
				last[n] = s.next(i, last[n], r)
				x := devices.Sample{Series: ids[n], Kind: s.kind, At: begin + int64(i)*step, Value: last[n]}
				if s.text != nil {
					x.Text, x.Value = s.text(last[n]), 0
				}
				batch = append(batch, x)
			}
		}
		batches = append(batches, batch)
	}
	if err := b.deliver(ctx, []devices.Sample{{Series: ids[0], Kind: s.kind, At: begin - 1, Text: ""}}); err != nil { // makes partitions
		return err
	}
	count := float64(series * each)
	used := func(f func() error) (float64, error) {
		before, err := b.cpu()
		if err != nil {
			return 0, err
		}
		if err := f(); err != nil {
			return 0, err
		}
		after, err := b.cpu()
		return after - before, err
	}
	chunks, err := used(func() error {
		for _, batch := range batches {
			if err := b.deliver(ctx, batch); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	rows, err := used(func() error {
		for _, batch := range batches {
			if _, err := b.pool.CopyFrom(ctx, pgx.Identifier{"sample_row"}, []string{"series", "time", "value", "text"}, pgx.CopyFromSlice(len(batch), func(i int) ([]any, error) {
				x := &batch[i]
				var text any
				if s.text != nil {
					text = x.Text
				}
				return []any{int32(x.Series), time.UnixMilli(x.At), x.Value, text}, nil
			})); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	size := func(sql string) float64 {
		var n float64
		if n, err = b.number(ctx, sql); err != nil {
			return math.NaN()
		}
		return n / count
	}
	fresh, row := size(`select pg_total_relation_size('history_fresh')`), size(`select pg_total_relation_size('sample_row')`)
	if err := b.store.Compact(ctx, time.UnixMilli(begin).Add(30*24*time.Hour)); err != nil {
		return err
	}
	packed := size(`select coalesce(sum(pg_total_relation_size(relid)), 0) from pg_partition_tree('history_packed') where isleaf and pg_relation_size(relid) > 0`)
	if err != nil {
		return err
	}
	fmt.Printf("| %s | %s | %.2f | %.2f | %.1f | %.1f | %.2f | %.0f |\n", s.name, rate, fresh, packed, row, count/chunks/1e6, count/rows/1e6, rows/chunks)
	return nil
}

// cpu is the processor time that the server has used so far, all its processes together, in seconds (proc(5), stat).
func (b *bench) cpu() (float64, error) {
	const ticks = 100 // a second, on every Linux
	stat := func(path string) (ppid string, own, ended float64, err error) {
		raw, err := os.ReadFile(path)
		if err != nil {
			return "", 0, 0, err
		}
		f := bytes.Fields(raw[bytes.LastIndexByte(raw, ')')+1:]) // from the third field on
		n := func(i int) float64 { v, _ := strconv.ParseFloat(string(f[i-3]), 64); return v / ticks }
		return string(f[1]), n(14) + n(15), n(16) + n(17), nil
	}
	main := strconv.Itoa(b.server.PID())
	_, own, ended, err := stat("/proc/" + main + "/stat")
	if err != nil {
		return 0, err
	}
	sum := own + ended
	all, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range all {
		if ppid, own, _, err := stat(path); err == nil && ppid == main { // it may have ended meanwhile
			sum += own
		}
	}
	return sum, nil
}
