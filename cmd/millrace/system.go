package main

import (
	"cmp"
	"context"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"millrace/dashboard/pages"
	"millrace/ingest"
	"millrace/ingest/spine"
)

// statusCache keeps what costs a query for some seconds.
type statusCache struct {
	mu       sync.Mutex // held while the database is asked, so that one asks for all
	asked    time.Time
	database pages.DatabaseStatus
	parked   pages.HistoryStatus // only what is parked and what it all takes
}

const databaseStatus = `select current_setting('server_version'), pg_database_size(current_database())`

// Status tells how the server is. It answers within a second, also when the database is away.
func (s *server) Status(ctx context.Context) pages.SystemStatus {
	v, commit := version()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	st := pages.SystemStatus{
		At: time.Now(), Started: s.started, Version: v, Revision: commit, Go: runtime.Version(), DataDir: s.c.Storage.DataDir,
		Goroutines: runtime.NumGoroutine(), Memory: memory.Sys, LiveConnections: s.live.Stats().Viewers,
	}
	var disk syscall.Statfs_t
	if syscall.Statfs(s.c.Storage.DataDir, &disk) == nil {
		st.DiskFree, st.DiskTotal = disk.Bavail*uint64(disk.Bsize), disk.Blocks*uint64(disk.Bsize)
	}
	in := s.pipeline.Stats()
	st.ClockAhead = in.ClockAhead
	for _, p := range []ingest.Protocol{ingest.MQTT, ingest.MQTTPull, ingest.HTTP} {
		st.Intake = append(st.Intake, pages.IntakeStatus{Protocol: string(p), Messages: in.Messages[p], Samples: in.Samples[p], MessageRate: -1, SampleRate: -1})
	}
	for kind, n := range in.Rejected {
		st.Rejected = append(st.Rejected, pages.KindCount{Kind: kind, Count: n})
	}
	slices.SortFunc(st.Rejected, func(a, b pages.KindCount) int { return cmp.Compare(a.Kind, b.Kind) })
	if s.broker != nil {
		for _, n := range s.broker.Stats().Connections {
			st.MQTTConnections += n
		}
	}
	sp := s.spine.Stats()
	st.Spine = pages.SpineStatus{Where: "embedded", Healthy: sp.Healthy, Bytes: sp.StreamBytes, MaxBytes: sp.MaxBytes, First: sp.First, Last: sp.Last,
		Waiting: sp.Waiting, Refused: sp.Refused, Read: s.reader.Delivered(), Recorded: s.recorded.Load()}
	if s.c.Sources.NATSURL != "" {
		st.Spine.Where = spine.Redacted(s.c.Sources.NATSURL)
	}
	w := s.writer.Stats()
	st.History = pages.HistoryStatus{Position: w.Position, Behind: max(s.reader.Delivered(), w.Position) - w.Position, Pending: w.Pending, Limit: w.Limit,
		Blocked: w.Blocked, Away: w.Away, Samples: w.Samples, Chunks: w.Chunks, Bytes: w.Bytes, LastFlush: w.LastTook}
	e := s.engine.Stats()
	st.Engine = pages.EngineStatus{Series: e.Series, Groups: e.Groups, Subscriptions: e.Subscriptions, Samples: e.Samples, Late: e.LateSamples,
		Ticks: e.Ticks, FramesCut: e.FramesCut, FrameShared: e.FramesShared, Encodes: e.Encodes, EncodesShared: e.EncodesShared}
	var parked pages.HistoryStatus
	st.Database, parked = s.askDatabase(ctx)
	st.History.ParkedChunks, st.History.ParkedSamples, st.History.Parked = parked.ParkedChunks, parked.ParkedSamples, parked.Parked
	st.History.Size, st.History.Disk, st.History.Waiting, st.History.Doomed = parked.Size, parked.Disk, parked.Waiting, parked.Doomed
	m := s.history.MaintainStats()
	st.History.Merged, st.History.Became, st.History.Expired, st.History.Dropped, st.History.Purged = m.Read, m.Written, m.Expired, m.Dropped, m.Purged
	st.History.Site, st.History.Unmaintained = s.history.SiteRetention(), m.Down
	return st
}

// parkedShown is how many parked chunks are told of, one by one.
const parkedShown = 20

func (s *server) askDatabase(ctx context.Context) (pages.DatabaseStatus, pages.HistoryStatus) {
	s.status.mu.Lock()
	defer s.status.mu.Unlock()
	if time.Since(s.status.asked) < 2*time.Second {
		return s.status.database, s.status.parked
	}
	ctx, cancel := context.WithTimeout(ctx, 700*time.Millisecond)
	defer cancel()
	d := pages.DatabaseStatus{Where: s.database.where}
	began := time.Now()
	err := s.store.Ping(ctx)
	d.Latency = time.Since(began)
	var size int64
	if err == nil {
		err = s.database.pool.QueryRow(ctx, databaseStatus).Scan(&d.Version, &size)
	}
	d.OK, d.Bytes = err == nil, uint64(size)
	if err != nil {
		d.Error = err.Error()
	}
	parked := s.status.parked
	if newest, chunks, samples, err := s.history.Parked(ctx, parkedShown); err == nil {
		parked = pages.HistoryStatus{ParkedChunks: chunks, ParkedSamples: samples}
		for _, p := range newest {
			parked.Parked = append(parked.Parked, pages.ParkedChunk{ID: p.ID, At: p.At, Device: p.Device, Metric: p.Metric, Start: time.UnixMilli(p.Start), Samples: p.N, Reason: p.Reason})
		}
	}
	if sp, err := s.history.Space(ctx); err == nil {
		parked.Size, parked.Disk, parked.Waiting, parked.Doomed = sp.Total, sp.Disk, sp.Waiting, sp.Doomed
	}
	s.status.asked, s.status.database, s.status.parked = time.Now(), d, parked
	return d, parked
}

// systemJSON is what GET /api/v1/system answers.
type systemJSON struct {
	At         time.Time `json:"at"`
	Started    time.Time `json:"started"`
	Version    string    `json:"version"`
	Revision   string    `json:"revision"`
	Go         string    `json:"go"`
	Goroutines int       `json:"goroutines"`
	Memory     uint64    `json:"memoryBytes"`
	DiskFree   uint64    `json:"diskFreeBytes"`
	DiskTotal  uint64    `json:"diskTotalBytes"`

	Messages        map[string]uint64 `json:"messages"` // by protocol
	Samples         map[string]uint64 `json:"samples"`
	Rejected        map[string]uint64 `json:"rejected"` // by kind of fault
	ClockAhead      uint64            `json:"clockAhead"`
	MQTTConnections int               `json:"mqttConnections"`
	LiveConnections int               `json:"liveConnections"`

	Spine    spineJSON   `json:"spine"`
	History  historyJSON `json:"history"`
	Database struct {
		Where     string  `json:"where"`
		OK        bool    `json:"ok"`
		Version   string  `json:"version"`
		LatencyMs float64 `json:"latencyMs"`
		Bytes     uint64  `json:"bytes"`
	} `json:"database"`
	Engine struct {
		Series        int    `json:"series"`
		Groups        int    `json:"groups"`
		Subscriptions int    `json:"subscriptions"`
		Samples       uint64 `json:"samples"`
		Late          uint64 `json:"late"`
		Ticks         uint64 `json:"ticks"`
		FramesCut     uint64 `json:"framesCut"`
		FramesShared  uint64 `json:"framesShared"`
		Encodes       uint64 `json:"encodes"`
		EncodesShared uint64 `json:"encodesShared"`
	} `json:"engine"`
	Alerts []string `json:"alerts"`
}

type spineJSON struct {
	Where    string `json:"where"`
	Healthy  bool   `json:"healthy"`
	Bytes    uint64 `json:"bytes"`
	MaxBytes uint64 `json:"maxBytes"`
	First    uint64 `json:"first"`
	Last     uint64 `json:"last"`
	Waiting  int    `json:"waiting"`
	Refused  uint64 `json:"refused"`
	Read     uint64 `json:"read"`
	Recorded uint64 `json:"recorded"`
}

type historyJSON struct {
	Position      uint64  `json:"position"`
	Behind        uint64  `json:"behind"`
	Pending       int     `json:"pending"`
	PendingLimit  int     `json:"pendingLimit"`
	Blocked       bool    `json:"blocked"`
	Away          bool    `json:"away"`
	Samples       uint64  `json:"samples"`
	Chunks        uint64  `json:"chunks"`
	Bytes         uint64  `json:"bytes"`
	LastFlushMs   float64 `json:"lastFlushMs"`
	ParkedChunks  int64   `json:"parkedChunks"`
	ParkedSamples int64   `json:"parkedSamples"`
	Recorded      int64   `json:"recordedSamples"` // all there are; this and what follows as of some minutes ago
	Disk          int64   `json:"diskBytes"`
	Oldest        int64   `json:"oldest"`       // Unix milliseconds; 0: nothing is recorded
	Waiting       int64   `json:"waitingHours"` // of series, to be compacted
	Doomed        int64   `json:"doomedSeries"` // deleted ones of which something is left
}

// systemJSON is Status for programs.
func (s *server) systemJSON(ctx context.Context) any {
	st := s.Status(ctx)
	out := systemJSON{At: st.At, Started: st.Started, Version: st.Version, Revision: st.Revision, Go: st.Go, Goroutines: st.Goroutines, Memory: st.Memory,
		DiskFree: st.DiskFree, DiskTotal: st.DiskTotal, Messages: map[string]uint64{}, Samples: map[string]uint64{}, Rejected: map[string]uint64{},
		ClockAhead: st.ClockAhead, MQTTConnections: st.MQTTConnections, LiveConnections: st.LiveConnections, Alerts: st.Alerts()}
	out.Spine = spineJSON(st.Spine)
	h := st.History
	out.History = historyJSON{Position: h.Position, Behind: h.Behind, Pending: h.Pending, PendingLimit: h.Limit, Blocked: h.Blocked, Away: h.Away, Samples: h.Samples,
		Chunks: h.Chunks, Bytes: h.Bytes, LastFlushMs: float64(h.LastFlush.Microseconds()) / 1000, ParkedChunks: h.ParkedChunks, ParkedSamples: h.ParkedSamples,
		Recorded: h.Size.Samples, Disk: h.Disk, Oldest: h.Size.Oldest, Waiting: h.Waiting, Doomed: h.Doomed}
	for _, in := range st.Intake {
		out.Messages[in.Protocol], out.Samples[in.Protocol] = in.Messages, in.Samples
	}
	for _, r := range st.Rejected {
		out.Rejected[r.Kind] = r.Count
	}
	if out.Alerts == nil {
		out.Alerts = []string{}
	}
	d, e := &out.Database, &out.Engine
	d.Where, d.OK, d.Version, d.LatencyMs, d.Bytes = st.Database.Where, st.Database.OK, st.Database.Version, float64(st.Database.Latency.Microseconds())/1000, st.Database.Bytes
	e.Series, e.Groups, e.Subscriptions, e.Samples, e.Late = st.Engine.Series, st.Engine.Groups, st.Engine.Subscriptions, st.Engine.Samples, st.Engine.Late
	e.Ticks, e.FramesCut, e.FramesShared, e.Encodes, e.EncodesShared = st.Engine.Ticks, st.Engine.FramesCut, st.Engine.FrameShared, st.Engine.Encodes, st.Engine.EncodesShared
	return out
}
