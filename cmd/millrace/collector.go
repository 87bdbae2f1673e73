package main

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// collector turns the Stats of the parts into Prometheus metrics each time they are asked for. No labels by device, group or
// connection.
type collector struct{ s *server }

// Describe sends nothing: the collector is unchecked, because which labels there are depends on the settings.
func (collector) Describe(chan<- *prometheus.Desc) {}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	send := func(kind prometheus.ValueType, name, help string, v float64, labels ...string) {
		var names, values []string
		for i := 0; i+1 < len(labels); i += 2 {
			names, values = append(names, labels[i]), append(values, labels[i+1])
		}
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("millrace_"+name, help, names, nil), kind, v, values...)
	}
	counter := func(name, help string, v uint64, labels ...string) {
		send(prometheus.CounterValue, name, help, float64(v), labels...)
	}
	gauge := func(name, help string, v float64, labels ...string) {
		send(prometheus.GaugeValue, name, help, v, labels...)
	}

	in := c.s.pipeline.Stats()
	for protocol, n := range in.Messages {
		counter("ingest_messages_total", "Messages taken.", n, "protocol", string(protocol))
	}
	for protocol, n := range in.Samples {
		counter("ingest_samples_total", "Samples taken.", n, "protocol", string(protocol))
	}
	for kind, n := range in.Rejected {
		counter("ingest_rejected_total", "Messages refused, by what was wrong.", n, "kind", kind)
	}
	counter("ingest_clock_ahead_total", "Samples from the future, taken at receive time.", in.ClockAhead)

	sp := c.s.spine.Stats()
	counter("spine_messages_total", "Messages handed to the spine.", sp.Messages)
	counter("spine_samples_total", "Samples handed to the spine.", sp.Samples)
	counter("spine_published_bytes_total", "Bytes written to the spine.", sp.Bytes)
	counter("spine_publishes_total", "Synced writes to the spine.", sp.Publishes)
	counter("spine_refused_total", "Samples refused because the spine was full or away.", sp.Refused)
	counter("spine_delivered_samples_total", "Samples read from the spine.", sp.Delivered)
	counter("spine_unknown_samples_total", "Samples of deleted devices, left out.", sp.Unknown)
	counter("spine_lost_total", "Messages that a reader wanted and could not have.", sp.Lost)
	counter("spine_replaced_total", "Times that the spine was another one than what had been read, and was read from its start.", sp.Replaced)
	gauge("spine_waiting_samples", "Samples not yet on disk.", float64(sp.Waiting))
	gauge("spine_size_bytes", "Size of the stream.", float64(sp.StreamBytes))
	gauge("spine_limit_bytes", "Size at which the spine takes no more.", float64(sp.MaxBytes))
	gauge("spine_last_sequence", "Last message of the stream.", float64(sp.Last))
	gauge("spine_read_sequence", "Message up to which the live reader has come.", float64(c.s.reader.Delivered()))
	gauge("spine_healthy", "1 if the last write succeeded.", yes(sp.Healthy))

	w := c.s.writer.Stats()
	counter("history_samples_total", "Samples recorded.", w.Samples)
	counter("history_chunks_total", "Chunks written.", w.Chunks)
	counter("history_chunk_bytes_total", "Bytes of the chunks written.", w.Bytes)
	counter("history_repeated_total", "Samples replaced by a later one for the same time before they were written.", w.Repeated)
	counter("history_left_out_total", "Samples of series that were deleted meanwhile.", w.LeftOut)
	counter("history_parked_chunks_total", "Chunks that the database refused, kept in history_parked.", w.Parked)
	counter("history_parked_samples_total", "Samples of these chunks.", w.ParkedSamples)
	counter("history_flushes_total", "Transactions that wrote samples.", w.Flushes)
	counter("history_flush_failures_total", "Transactions that failed and are tried again.", w.Failed)
	counter("history_moved_total", "Times that another writer had stored history.", w.Moved)
	counter("history_waits_total", "Times that the reader had to wait because too much waited to be written.", w.Waits)
	send(prometheus.CounterValue, "history_flush_seconds_total", "Time spent in transactions that wrote samples.", w.Took.Seconds())
	gauge("history_last_flush_seconds", "Time that the last of them took.", w.LastTook.Seconds())
	gauge("history_pending", "Samples that wait to be written; a text counts as one for each 16 bytes.", float64(w.Pending))
	gauge("history_pending_limit", "Most that may wait.", float64(w.Limit))
	gauge("history_position", "Message of the spine up to which all is recorded.", float64(w.Position))
	gauge("history_lag_messages", "Messages that the live reader has read and that are not recorded yet.", float64(max(c.s.reader.Delivered(), w.Position)-w.Position))

	m := c.s.history.MaintainStats()
	counter("history_compacted_chunks_total", "Chunks merged by compaction.", m.Read)
	counter("history_compacted_into_total", "Chunks that these became.", m.Written)
	counter("history_compacted_samples_total", "Samples in them.", m.Samples)
	counter("history_expired_chunks_total", "Chunks deleted one by one because they were too old.", m.Expired)
	counter("history_dropped_partitions_total", "Partitions dropped because all in them was too old.", m.Dropped)
	counter("history_purged_chunks_total", "Chunks deleted with their series.", m.Purged)
	counter("history_upkeep_failures_total", "Rounds of compaction and deletion that failed and are tried again.", m.Failed)
	send(prometheus.CounterValue, "history_upkeep_seconds_total", "Time spent in compaction and deletion, pauses included.", m.Took.Seconds())
	gauge("history_upkeep_ok", "1 if the last round of compaction and deletion succeeded.", yes(!m.Down))

	e := c.s.engine.Stats()
	counter("fanout_samples_total", "Samples offered to the engine.", e.Samples)
	counter("fanout_unknown_samples_total", "Samples of series the engine does not know.", e.UnknownSamples)
	counter("fanout_late_samples_total", "Samples older than the last of their series.", e.LateSamples)
	counter("fanout_ticks_total", "Ticks cut.", e.Ticks)
	counter("fanout_frames_total", "Frames cut.", e.FramesCut)
	counter("fanout_frames_shared_total", "Frames that a viewer shared with another.", e.FramesShared)
	counter("fanout_encodes_total", "Frames encoded.", e.Encodes)
	counter("fanout_encodes_shared_total", "Frames sent without being encoded again.", e.EncodesShared)
	counter("fanout_snapshots_total", "Snapshots cut.", e.Snapshots)
	counter("fanout_folds_total", "Cursors folded into an accumulator.", e.Folds)
	counter("fanout_ring_trims_total", "Times that a ring was cut short for lack of room.", e.Trims)
	gauge("fanout_ring_bytes", "What is kept for viewers who resume, of --live-ring-bytes.", float64(e.RingBytes))
	gauge("fanout_series", "Series in the engine.", float64(e.Series))
	gauge("fanout_groups", "Groups in the engine.", float64(e.Groups))
	gauge("fanout_subscriptions", "Subscriptions of viewers.", float64(e.Subscriptions))

	l := c.s.live.Stats()
	gauge("live_viewers", "Live connections.", float64(l.Viewers))
	counter("live_frames_total", "Frames sent to viewers.", l.Frames)
	counter("live_frame_bytes_total", "Bytes of frames sent to viewers.", l.Bytes)
	counter("live_snapshots_total", "Snapshots sent to viewers.", l.Snapshots)
	counter("live_refused_total", "Control messages answered by an error.", l.Refused)
	counter("live_revoked_total", "Subscriptions ended because a right ended.", l.Revoked)
	counter("live_dead_total", "Connections whose peer was gone.", l.Dead)

	h := c.s.app.Stats()
	for class, n := range h.Requests {
		counter("http_requests_total", "HTTP requests answered.", n, "status", class)
	}
	send(prometheus.CounterValue, "http_handler_seconds_total", "Time spent in HTTP handlers.", h.Seconds)
	gauge("http_in_flight", "HTTP requests being answered.", float64(h.InFlight))

	if c.s.broker != nil {
		b := c.s.broker.Stats()
		for v, n := range b.Connections {
			gauge("broker_connections", "Devices connected to the embedded broker.", float64(n), "version", v)
		}
		gauge("broker_sessions", "Sessions, also of devices that are away.", float64(b.Sessions))
		gauge("broker_subscriptions", "Subscriptions of devices.", float64(b.Subscriptions))
		gauge("broker_retained", "Retained messages.", float64(b.Retained))
		counter("broker_received_total", "Messages received.", b.In)
		counter("broker_sent_total", "Messages sent.", b.Out)
		counter("broker_auth_failures_total", "Failed sign-ins of devices.", b.AuthFailures)
		counter("broker_refused_total", "Connections refused.", b.Refused)
		counter("broker_foreign_total", "Messages and subscriptions to topics of others.", b.Foreign)
		counter("broker_dropped_total", "Messages a slow or absent subscriber did not get.", b.Dropped)
	}
	if c.s.sources != nil {
		m := c.s.sources.Stats()
		gauge("source_connected", "1 while connected to the broker of --mqtt-broker-url.", yes(m.Connected))
		counter("source_connects_total", "Connections made to it.", m.Connects)
		counter("source_messages_total", "Messages received from it.", m.Messages)
		counter("source_unknown_total", "Messages of devices that are not there or not active.", m.Unknown)
		counter("source_held_total", "Times a message could not be stored and was kept back.", m.Held)
		gauge("source_waiting", "Messages kept back now.", float64(m.Waiting))
	}
	if p := c.s.database.pool; p != nil {
		st := p.Stat()
		gauge("database_connections", "Connections to PostgreSQL.", float64(st.TotalConns()))
		gauge("database_connections_used", "Connections in use.", float64(st.AcquiredConns()))
		counter("database_acquires_total", "Times a connection was taken from the pool.", uint64(st.AcquireCount()))
		send(prometheus.CounterValue, "database_acquire_wait_seconds_total", "Time spent waiting for a connection.", st.AcquireDuration().Seconds())
	}
}

func yes(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// metrics is the handler of /metrics.
func (s *server) metrics() http.Handler {
	r := prometheus.NewRegistry()
	v, commit := version()
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: "millrace_build_info", Help: "Always 1; the labels say what runs.", ConstLabels: prometheus.Labels{"version": v, "revision": commit}})
	info.Set(1)
	r.MustRegister(collector{s}, info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}
