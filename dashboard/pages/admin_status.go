package pages

import (
	"time"

	"millrace/devices"
)

// SystemStatus is the server at one moment, for the system page. Counters count since the server started.
type SystemStatus struct {
	At, Started time.Time
	Version     string // of Millrace
	Revision    string // of its source; may be ""
	Go          string
	DataDir     string
	DiskFree    uint64 // bytes on the data directory's file system
	DiskTotal   uint64
	Goroutines  int
	Memory      uint64 // bytes the Go runtime has from the system

	Intake     []IntakeStatus
	Rejected   []KindCount // by kind of fault
	ClockAhead uint64      // samples from the future, taken at receive time as uncertain

	MQTTConnections int // of devices to the embedded broker
	LiveConnections int // of viewers: WebSocket and server-sent events

	Spine    SpineStatus
	History  HistoryStatus
	Database DatabaseStatus
	Engine   EngineStatus
}

// IntakeStatus counts what came in by one protocol.
type IntakeStatus struct {
	Protocol          string // mqtt, mqtt-pull, http
	Messages, Samples uint64
	MessageRate       float64 // a second; negative: not known yet. The admin handlers fill the rates in
	SampleRate        float64
}

// KindCount is how often something of a kind happened.
type KindCount struct {
	Kind  string
	Count uint64
}

// SpineStatus is the durable log.
type SpineStatus struct {
	Where       string // "embedded" or the address of the NATS server
	Healthy     bool
	Bytes       uint64
	MaxBytes    uint64
	First, Last uint64 // sequence numbers of messages
	Waiting     int    // samples not yet on disk
	Refused     uint64 // samples refused because it was full or away
	Read        uint64 // sequence number the live reader has reached
	Recorded    uint64 // sequence number up to which last values are in the database
}

// Lag is how many messages the live reader is behind.
func (s SpineStatus) Lag() uint64 {
	if s.Read >= s.Last {
		return 0
	}
	return s.Last - s.Read
}

// HistoryStatus is how far samples are recorded.
type HistoryStatus struct {
	Position       uint64 // sequence number of the spine up to which all is in the database
	Behind         uint64 // messages that the live reader has read and that are not
	Pending, Limit int    // samples in memory that wait to be written, and most that may
	Blocked        bool   // no more is read from the spine until some are written
	Away           bool   // they could not be written the last time
	Samples        uint64 // written since the start
	Chunks, Bytes  uint64 // they became
	LastFlush      time.Duration

	Size            devices.HistorySize // of all that is recorded, as of some minutes ago
	Disk            int64               // bytes of its tables and indexes
	Waiting         int64               // hours of series that wait to be compacted
	Doomed          int64               // deleted series of which chunks are left
	Merged, Became  uint64              // chunks compacted since the start, and what they became
	Expired, Purged uint64              // chunks deleted since the start: too old, or of deleted series
	Dropped         uint64              // partitions dropped as too old since the start
	Site            int                 // days that samples stay where no group says otherwise
	Unmaintained    bool                // the last round of compaction and deletion failed

	ParkedChunks, ParkedSamples int64         // what the database refused, in all
	Parked                      []ParkedChunk // the newest of these
}

// ParkedChunk is a chunk of samples that the database refused.
type ParkedChunk struct {
	ID             int64
	At             time.Time
	Device, Metric string
	Start          time.Time // of its first sample
	Samples        int
	Reason         string
}

// DatabaseStatus is Postgres.
type DatabaseStatus struct {
	Where   string // "private" or the host of --database-url, without credentials
	OK      bool
	Error   string // why not
	Version string
	Latency time.Duration // of a trivial query
	Bytes   uint64        // size of the database
}

// EngineStatus counts what the conflating engine did.
type EngineStatus struct {
	Series, Groups, Subscriptions int
	Samples, Late                 uint64
	Ticks, FramesCut, FrameShared uint64
	Encodes, EncodesShared        uint64
}

// Fill is the part of its room that the spine uses, 0 to 1.
func (s SpineStatus) Fill() float64 {
	if s.MaxBytes == 0 {
		return 0
	}
	return min(1, float64(s.Bytes)/float64(s.MaxBytes))
}

// Alerts says what needs somebody, with what to do; empty when all is well.
func (s SystemStatus) Alerts() []string {
	var a []string
	if !s.Spine.Healthy {
		a = append(a, "The spine takes no samples: devices get no acknowledgement and must keep their messages. Look at the disk of the data directory and at the server's log.")
	} else if s.Spine.Fill() > 0.9 {
		a = append(a, "The spine is almost full. When it is full, devices are refused until the database has caught up. Look at the database, or give it more room.")
	}
	if !s.Database.OK {
		a = append(a, "The database does not answer. Intake and live pages go on; changes in this UI do not. Look at the server's log.")
	}
	if s.History.Blocked {
		a = append(a, "History is not written, and memory for it is full. The spine keeps what comes; when it is full, devices are refused. Look at the database.")
	}
	if s.History.ParkedChunks > 0 {
		a = append(a, "The database refused some samples, which are kept beside history: see below.")
	}
	if s.DiskTotal > 0 && s.DiskFree < s.DiskTotal/20 {
		a = append(a, "Less than 5 % of the data directory's disk is free.")
	}
	return a
}
