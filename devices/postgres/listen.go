package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/devices/catalog"
)

const listen = `listen millrace`

// Pauses of Listen.
const (
	firstPause = 100 * time.Millisecond
	longPause  = 5 * time.Second
	checkAfter = 30 * time.Second // of silence: is the connection still there?
)

// Listen calls changed for each change of the inventory, of this and other processes, until ctx ends. It has a connection of its
// own; each time that was made, also the first time, it calls connected, as changes may have been missed: reload all. Both run on
// Listen's goroutine, so that nothing is told meanwhile.
func (s *Store) Listen(ctx context.Context, log *slog.Logger, changed func(catalog.Change), connected func()) error {
	pause := firstPause
	for {
		began := time.Now()
		err := s.listen(ctx, log, changed, connected)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > longPause {
			pause = firstPause
		}
		log.Warn("no news of the inventory from other processes for now", "err", err, "pause", pause)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, longPause)
	}
}

func (s *Store) listen(ctx context.Context, log *slog.Logger, changed func(catalog.Change), connected func()) error {
	conn, err := pgx.ConnectConfig(ctx, s.pool.Config().ConnConfig)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		conn.Close(closing)
	}()
	if _, err := conn.Exec(ctx, listen); err != nil {
		return err
	}
	connected()
	for {
		waiting, cancel := context.WithTimeout(ctx, checkAfter)
		n, err := conn.WaitForNotification(waiting)
		cancel()
		if err != nil {
			if ctx.Err() != nil || waiting.Err() == nil {
				return err
			}
			checking, cancel := context.WithTimeout(ctx, longPause)
			err := conn.Ping(checking)
			cancel()
			if err != nil {
				return fmt.Errorf("silent connection: %w", err)
			}
			continue
		}
		var ch catalog.Change
		if err := json.Unmarshal([]byte(n.Payload), &ch); err != nil || ch.Topic == "" {
			log.Warn("unknown notification", "err", err)
			continue
		}
		changed(ch)
	}
}
