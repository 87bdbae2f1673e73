package api

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"io"
	"strconv"
	"time"

	"millrace/devices"
)

// writeHistory answers r. It holds no more in memory than the buckets of a few series.
func (a *API) writeHistory(ctx context.Context, w io.Writer, r historyRequest) error {
	if r.format == "csv" {
		return a.writeCSV(ctx, w, r)
	}
	b := answerWriter{w: w, r: r}
	b.text(`{"from":`).int(r.From).text(`,"to":`).int(r.To).text(`,"width":`).int(r.width).text(`,"series":[`)
	var err error
	switch {
	case r.Buckets > 0:
		err = a.d.History.Buckets(ctx, r.HistoryQuery, func(id devices.SeriesID, buckets []devices.Bucket) error {
			b.begin(id)
			if r.format == "columns" {
				b.bucketColumns(buckets)
			} else {
				b.bucketPoints(buckets)
			}
			return b.flush()
		})
	case r.format == "columns": // of one series at a time, for a column can't be written bit by bit
		var of []devices.Sample
		err = a.eachWhole(ctx, r, &of, func(id devices.SeriesID) error {
			b.begin(id)
			b.sampleColumns(of)
			return b.flush()
		})
	default:
		err = a.d.History.Samples(ctx, r.HistoryQuery, func(id devices.SeriesID, samples []devices.Sample) error {
			b.begin(id)
			b.samplePoints(samples)
			return b.flush()
		})
	}
	if err != nil {
		return err
	}
	b.end()
	b.text("]}\n")
	return b.flush()
}

// columnSamples is the most samples of one series in columns.
const columnSamples = 1_000_000

// eachWhole calls each when of holds all samples of one series.
func (a *API) eachWhole(ctx context.Context, r historyRequest, of *[]devices.Sample, each func(id devices.SeriesID) error) error {
	open := devices.SeriesID(0)
	err := a.d.History.Samples(ctx, r.HistoryQuery, func(id devices.SeriesID, samples []devices.Sample) error {
		if id != open && open != 0 {
			if err := each(open); err != nil {
				return err
			}
			*of = (*of)[:0]
		}
		open = id
		if len(*of)+len(samples) > columnSamples {
			return devices.Invalid("to", "there are more than %d samples of one series: ask for a shorter time, for buckets, or without shape=columns", columnSamples)
		}
		*of = append(*of, samples...)
		return nil
	})
	if err == nil && open != 0 {
		err = each(open)
	}
	return err
}

// answerWriter writes the JSON of an answer.
type answerWriter struct {
	w     io.Writer
	r     historyRequest
	buf   []byte
	at    int // in r.series
	open  devices.SeriesID
	comma bool // within the open list
}

func (b *answerWriter) text(s string) *answerWriter { b.buf = append(b.buf, s...); return b }
func (b *answerWriter) int(n int64) *answerWriter   { b.buf = strconv.AppendInt(b.buf, n, 10); return b }
func (b *answerWriter) number(v float64) *answerWriter {
	b.buf = strconv.AppendFloat(b.buf, v, 'g', -1, 64)
	return b
}

func (b *answerWriter) string(s string) *answerWriter {
	quoted, _ := json.Marshal(s) // a string can always be
	b.buf = append(b.buf, quoted...)
	return b
}

func (b *answerWriter) next() {
	if b.comma {
		b.buf = append(b.buf, ',')
	}
	b.comma = true
}

func (b *answerWriter) flush() error {
	_, err := b.w.Write(b.buf)
	b.buf = b.buf[:0]
	return err
}

// begin opens the object of a series unless it is open. Series come in the order in which they were asked for.
func (b *answerWriter) begin(id devices.SeriesID) {
	if b.open == id {
		return
	}
	b.end()
	if b.at > 0 {
		b.text(",")
	}
	s := b.r.series[b.at]
	b.at++
	b.open, b.comma = id, false
	b.text(`{"device":`).string(string(s.Device)).text(`,"metric":`).string(s.Metric).text(`,"unit":`).string(s.Unit).text(`,"kind":"`).text(s.Kind.String()).text(`"`)
	if b.r.format != "columns" {
		b.text(`,"points":[`)
	}
}

// end closes the open series.
func (b *answerWriter) end() {
	if b.open == 0 {
		return
	}
	if b.r.format != "columns" {
		b.text("]")
	}
	b.text("}")
	b.open = 0
}

func (b *answerWriter) bucketPoints(buckets []devices.Bucket) {
	kind := b.r.series[b.at-1].Kind
	for i := range buckets {
		p := &buckets[i]
		b.next()
		b.text(`{"t":`).int(p.T)
		switch kind {
		case devices.String:
			b.text(`,"last":`).string(p.Text)
		case devices.Location:
			b.text(`,"last":`).place(p.Last, p.Lon)
		default:
			b.text(`,"first":`).number(p.First).text(`,"last":`).number(p.Last).text(`,"min":`).number(p.Min).text(`,"max":`).number(p.Max).text(`,"sum":`).number(p.Sum)
		}
		b.text(`,"count":`).int(p.Count)
		b.quality(p.Quality)
		b.text("}")
	}
}

func (b *answerWriter) samplePoints(samples []devices.Sample) {
	for i := range samples {
		s := &samples[i]
		b.next()
		b.text(`{"t":`).int(s.At).text(`,"value":`)
		switch s.Kind {
		case devices.String:
			b.string(s.Text)
		case devices.Location:
			b.place(s.Value, s.Lon)
		case devices.Bool:
			b.buf = strconv.AppendBool(b.buf, s.Value != 0)
		default:
			b.number(s.Value)
		}
		b.quality(s.Quality)
		b.text("}")
	}
}

func (b *answerWriter) place(lat, lon float64) {
	b.text(`{"lat":`).number(lat).text(`,"lon":`).number(lon).text("}")
}

// quality is left out where it is good.
func (b *answerWriter) quality(q devices.Quality) {
	if q != devices.Good {
		b.text(`,"quality":"`).text(q.String()).text(`"`)
	}
}

// column writes one column of n entries.
func (b *answerWriter) column(name string, n int, entry func(i int)) {
	b.text(`,"`).text(name).text(`":[`)
	for i := range n {
		if i > 0 {
			b.text(",")
		}
		entry(i)
	}
	b.text("]")
}

func (b *answerWriter) bucketColumns(buckets []devices.Bucket) {
	n, kind := len(buckets), b.r.series[b.at-1].Kind
	b.column("t", n, func(i int) { b.int(buckets[i].T) })
	if kind == devices.String {
		b.column("text", n, func(i int) { b.string(buckets[i].Text) })
	} else {
		b.column("first", n, func(i int) { b.number(buckets[i].First) })
		b.column("last", n, func(i int) { b.number(buckets[i].Last) })
		b.column("min", n, func(i int) { b.number(buckets[i].Min) })
		b.column("max", n, func(i int) { b.number(buckets[i].Max) })
		b.column("sum", n, func(i int) { b.number(buckets[i].Sum) })
	}
	if kind == devices.Location {
		b.column("lon", n, func(i int) { b.number(buckets[i].Lon) })
	}
	b.column("count", n, func(i int) { b.int(buckets[i].Count) })
	b.qualities(n, func(i int) devices.Quality { return buckets[i].Quality })
}

func (b *answerWriter) sampleColumns(samples []devices.Sample) {
	n, kind := len(samples), b.r.series[b.at-1].Kind
	b.column("t", n, func(i int) { b.int(samples[i].At) })
	if kind == devices.String {
		b.column("text", n, func(i int) { b.string(samples[i].Text) })
	} else {
		b.column("value", n, func(i int) { b.number(samples[i].Value) })
	}
	if kind == devices.Location {
		b.column("lon", n, func(i int) { b.number(samples[i].Lon) })
	}
	b.qualities(n, func(i int) devices.Quality { return samples[i].Quality })
}

// qualities writes the column if there is one that is not good.
func (b *answerWriter) qualities(n int, of func(i int) devices.Quality) {
	for i := range n {
		if of(i) != devices.Good {
			b.column("quality", n, func(i int) { b.int(int64(of(i))) })
			return
		}
	}
}

// writeCSV answers in one table (RFC 4180).
func (a *API) writeCSV(ctx context.Context, w io.Writer, r historyRequest) error {
	out := csv.NewWriter(w)
	out.UseCRLF = true
	at, open := -1, devices.SeriesID(0)
	series := func(id devices.SeriesID) *devices.Series {
		if id != open {
			at, open = at+1, id
		}
		return &r.series[at]
	}
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	stamp := func(t int64) string { return time.UnixMilli(t).UTC().Format("2006-01-02T15:04:05.000Z") }
	done := func() error {
		out.Flush()
		return out.Error()
	}
	if r.Buckets > 0 {
		_ = out.Write([]string{"device", "metric", "unit", "time", "t", "first", "last", "min", "max", "sum", "count", "quality"}) // Flush tells the error
		err := a.d.History.Buckets(ctx, r.HistoryQuery, func(id devices.SeriesID, buckets []devices.Bucket) error {
			s := series(id)
			for _, b := range buckets {
				row := []string{string(s.Device), s.Metric, s.Unit, stamp(b.T), strconv.FormatInt(b.T, 10), number(b.First), number(b.Last), number(b.Min), number(b.Max), number(b.Sum), strconv.FormatInt(b.Count, 10), b.Quality.String()}
				switch s.Kind {
				case devices.String:
					row[5], row[6], row[7], row[8], row[9] = "", b.Text, "", "", ""
				case devices.Location:
					row[5], row[6], row[7], row[8], row[9] = "", number(b.Last)+" "+number(b.Lon), "", "", ""
				}
				_ = out.Write(row)
			}
			return done()
		})
		if err != nil {
			return err
		}
		return done()
	}
	_ = out.Write([]string{"device", "metric", "unit", "time", "t", "value", "quality"})
	err := a.d.History.Samples(ctx, r.HistoryQuery, func(id devices.SeriesID, samples []devices.Sample) error {
		s := series(id)
		for _, x := range samples {
			v := number(x.Value)
			switch x.Kind {
			case devices.String:
				v = x.Text
			case devices.Location:
				v += " " + number(x.Lon)
			case devices.Bool:
				v = strconv.FormatBool(x.Value != 0)
			}
			_ = out.Write([]string{string(s.Device), s.Metric, s.Unit, stamp(x.At), strconv.FormatInt(x.At, 10), v, x.Quality.String()})
		}
		return done()
	})
	if err != nil {
		return err
	}
	return done()
}
