package fanout

import (
	"sync"

	"millrace/devices"
)

// Detail of frames.
type Detail uint8

const (
	Envelope Detail = iota // last, min, max, count
	Last
	Full // every sample of the window, bounded
)

var detailNames = [...]string{"envelope", "last", "full"}

func (d Detail) String() string {
	if int(d) < len(detailNames) {
		return detailNames[d]
	}
	return "unknown"
}

// ParseDetail is the inverse of String; ok is false for other names.
func ParseDetail(name string) (d Detail, ok bool) {
	for i, n := range detailNames {
		if n == name {
			return Detail(i), true
		}
	}
	return 0, false
}

// A Position is a place in the sequence of a group's ticks within one epoch.
type Position struct {
	Epoch string `json:"epoch"`
	Seq   uint64 `json:"seq"`
}

// A Member is a series as a subscription's interest set numbers it. Index is never given to another series within the
// subscription; a series that leaves and comes back has its old one.
type Member struct {
	Index           uint32
	*devices.Series // shared and immutable
}

// Update is one thing to send: either a membership change or a frame.
type Update struct {
	Added   []Member // new, or their settings changed
	Removed []uint32 // indexes
	Frame   *Frame
}

// Frame is the merge of the ticks in (From, Seq], limited to an interest set. It is shared by all subscriptions with the
// same window, set and detail: read only. A snapshot covers no ticks: From equals Seq.
type Frame struct {
	Group     devices.GroupPath
	Epoch     string
	From, Seq uint64
	Snapshot  bool
	At        int64 // when it was cut, Unix milliseconds
	Detail    Detail
	Truncated bool    // detail full was asked, but there were too many samples: the envelope only
	Points    []Point // by rising Index

	count   *counters // nil in frames not made by an engine
	mu      sync.Mutex
	packets []packet
}

// Point is what the window made of one series' samples. In a snapshot Min and Max equal Last and Count is 0; a point with
// Count 0 in a frame that is no snapshot tells a change of state only: stale, fresh again, or new in the group with a value.
// Min, Max and Sum are of the numeric samples; where the last value is not numeric, Min and Max equal Last. First is by
// arrival, Last by device time: a late sample can be First or an extreme, but not Last.
type Point struct {
	Member
	Kind                       devices.Kind
	Quality                    devices.Quality // worst of the samples; Stale if the series is at the end
	T                          int64           // time of last, Unix milliseconds
	First, Last, Min, Max, Sum float64
	Lon                        float64
	Text                       string
	Count                      uint32
	Samples                    []TimedValue // detail full, floats, integers and booleans; in order of arrival. nil otherwise
}

// TimedValue is one sample of a window.
type TimedValue struct {
	T int64
	V float64
}

// Encoder turns a frame into bytes; fanout/wire has two. Comparable: it is part of a cache key.
type Encoder interface {
	AppendFrame(dst []byte, f *Frame, id uint32) []byte
}

// A Renumberer is an Encoder that can make a packet for one subscription number out of that for another, which is a copy
// instead of an encoding.
type Renumberer interface {
	AppendRenumbered(dst, packet []byte, id uint32) []byte
}

type packet struct {
	enc   Encoder
	id    uint32
	bytes []byte
}

// maxPackets bounds what a frame keeps encoded: above it, further subscription numbers get a copy of their own.
const maxPackets = 8

// Packet returns the frame encoded by enc for the subscription number id, encoding it once for all who share it. The bytes
// are shared: read only.
func (f *Frame) Packet(enc Encoder, id uint32) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	var other []byte
	for i := range f.packets {
		if p := &f.packets[i]; p.enc == enc {
			if p.id == id {
				if f.count != nil {
					f.count.encodesShared.Add(1)
				}
				return p.bytes
			}
			other = p.bytes
		}
	}
	var bytes []byte
	if r, ok := enc.(Renumberer); ok && other != nil {
		bytes = r.AppendRenumbered(make([]byte, 0, len(other)+10), other, id)
		if f.count != nil {
			f.count.encodesShared.Add(1)
		}
	} else {
		bytes = enc.AppendFrame(nil, f, id)
		if f.count != nil {
			f.count.encodes.Add(1)
		}
	}
	if len(f.packets) < maxPackets {
		f.packets = append(f.packets, packet{enc, id, bytes})
	}
	return bytes
}
