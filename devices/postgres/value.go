package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/postgres/pgerr"
)

const (
	positionOf = `select seq from stream_position where reader = 'lastvalues' and stream = @stream`
	lastValues = `select device, metric, kind, quality, at, recv, value, lon, text from last_value`

	// A series of a device that is gone has nowhere to be.
	upsertSeries = `insert into series (device, metric, kind)
		select u.device, u.metric, u.kind
		from unnest(@devices::text[], @metrics::text[], @kinds::smallint[]) as u (device, metric, kind)
		join device d on d.id = u.device
		order by u.device, u.metric
		on conflict (device, metric) do update set kind = excluded.kind where series.kind <> excluded.kind`
	upsertValues = `insert into last_value (device, metric, kind, quality, at, recv, value, lon, text)
		select u.* from unnest(@devices::text[], @metrics::text[], @kinds::smallint[], @qualities::smallint[], @ats::bigint[], @recvs::bigint[],
			@values::float8[], @lons::float8[], @texts::text[]) as u (device, metric, kind, quality, at, recv, value, lon, text)
		join series s on s.device = u.device and s.metric = u.metric
		order by u.device, u.metric
		on conflict (device, metric) do update set kind = excluded.kind, quality = excluded.quality, at = excluded.at, recv = excluded.recv,
			value = excluded.value, lon = excluded.lon, text = excluded.text
		where excluded.at >= last_value.at`
	updateSeen = `update device d set last_seen = greatest(d.last_seen, to_timestamp(u.seen / 1000.0))
		from (select device, max(seen) as seen from unnest(@devices::text[], @seen::bigint[]) as u (device, seen) group by device) as u
		where d.id = u.device`
	upsertPosition = `insert into stream_position (reader, stream, seq) values ('lastvalues', @stream, @seq)
		on conflict (reader) do update set stream = excluded.stream, seq = excluded.seq
		where stream_position.stream <> excluded.stream or stream_position.seq < excluded.seq`
)

// LastValues returns the newest sample of each series, and the position of the stream they are as of: a reader goes on at the
// next. The position is 0 if they were made of another life of the stream.
func (s *Store) LastValues(ctx context.Context, stream string) (position uint64, values []devices.LastValue, err error) {
	err = s.snapshot(ctx, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, positionOf, pgx.StrictNamedArgs{"stream": stream}).Scan(&position)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		rows, _ := tx.Query(ctx, lastValues)
		values, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (v devices.LastValue, err error) {
			var kind, quality int16
			err = row.Scan(&v.Device, &v.Metric, &kind, &quality, &v.At, &v.Recv, &v.Value, &v.Lon, &v.Text)
			v.Kind, v.Quality = devices.Kind(kind), devices.Quality(quality)
			return v, err
		})
		return err
	})
	if err != nil {
		return 0, nil, fmt.Errorf("last values: %w", pgerr.Domain(err))
	}
	return position, values, nil
}
