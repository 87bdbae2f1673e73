package history

import (
	"context"

	"millrace/devices"
)

// sampleBatch is about how many samples Samples hands on at once.
const sampleBatch = 4096

// Samples calls each with the samples of one series after the other, run after run in the order of time; of a series that has none, once with none. They are each's only until it
// returns, and their Recv is 0. Its error ends the query. Memory does not grow with the number of samples.
func (s *Store) Samples(ctx context.Context, q devices.HistoryQuery, each func(id devices.SeriesID, samples []devices.Sample) error) error {
	var b sampler
	return s.query(ctx, q, 0, false, func(i int, read func(sink) error) error {
		id := q.Series[i]
		b.id, b.batch, b.any = id, b.batch[:0], false
		b.each = each
		if err := read(&b); err != nil {
			return err
		}
		if len(b.batch) > 0 || !b.any {
			return each(id, b.batch)
		}
		return nil
	})
}

// sampler is a sink that hands samples on.
type sampler struct {
	id    devices.SeriesID
	batch []devices.Sample
	any   bool // some were handed on
	each  func(id devices.SeriesID, samples []devices.Sample) error
}

func (*sampler) row(*row)      { panic("history: a row without its data") }
func (*sampler) hour(*hourRow) { panic("history: an hour in place of samples") }

func (b *sampler) samples(r *Run, from, to int) error {
	for i := from; i < to; i++ {
		s := devices.Sample{Series: b.id, Kind: r.Kind, At: r.Times[i], Value: r.Values[i]}
		if len(r.Quality) > 0 {
			s.Quality = r.Quality[i]
		}
		if len(r.Lons) > 0 {
			s.Lon = r.Lons[i]
		}
		if len(r.Texts) > 0 {
			s.Text = r.Texts[i]
		}
		b.batch = append(b.batch, s)
	}
	if len(b.batch) < sampleBatch {
		return nil
	}
	b.any = true
	err := b.each(b.id, b.batch)
	b.batch = b.batch[:0]
	return err
}
