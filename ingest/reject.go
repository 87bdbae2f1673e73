package ingest

import (
	"bytes"
	"cmp"
	"container/list"
	"errors"
	"slices"
	"sync"

	"millrace/devices"
	"millrace/ingest/codec"
)

const (
	headBytes     = 128  // of a payload on the list
	perDevice     = 20   // rejects
	rejectDevices = 1000 // with a list
)

// Reject says why a payload was not taken. It unwraps to devices.ErrInvalid, ErrTooLarge or ErrRate, and where the sender had
// no right to ErrUnauthorized, ErrForbidden or ErrNotFound.
type Reject struct {
	Device devices.ID
	At     int64 // Unix ms
	Topic  string
	Head   []byte // first bytes, at most 128
	Reason string // for a person: what is wrong at which position
	Kind   string // for metrics: "json", "too_large", "too_many_samples", "too_many_series", "metric_name", "value", "time", "rate", "topic", "auth"
	Err    error
}

func (r *Reject) Error() string { return r.Reason }
func (r *Reject) Unwrap() error { return r.Err }

func reject(id devices.ID, at int64, topic string, payload []byte, kind string, err error, reason string) *Reject {
	return &Reject{Device: id, At: at, Topic: topic, Head: payload, Kind: kind, Err: err, Reason: reason}
}

func rejectOf(err error, id devices.ID, at int64, topic string, payload []byte) *Reject {
	kind := codec.KindJSON
	if e, ok := errors.AsType[*codec.Error](err); ok {
		kind = e.Kind
	}
	return reject(id, at, topic, payload, kind, err, err.Error())
}

// refuse records a reject and answers with it. It returns the number of samples taken: none.
func (p *Pipeline) refuse(done func(error), r *Reject) int {
	p.Record(r)
	if done != nil {
		done(r)
	}
	return 0
}

// Record counts a reject found elsewhere (a foreign topic, a wrong password) and puts it on the device's list. Head is
// copied; of an id that is no device's, it goes to a list that all such share, so that strangers can't crowd others out.
func (p *Pipeline) Record(r *Reject) {
	r.Head = bytes.Clone(r.Head[:min(len(r.Head), headBytes)])
	if len(r.Device) > 128 {
		r.Device = r.Device[:128]
	}
	p.mu.Lock()
	p.rejected[r.Kind]++
	p.mu.Unlock()
	key := r.Device
	if p.cat.Device(key) == nil {
		key = ""
	}
	p.rejects.add(key, *r)
}

// Rejects returns the newest first, of one device or (device "") of all, at most limit. Each device keeps its last 20; at most 1,000 devices, least recent out.
func (p *Pipeline) Rejects(device devices.ID, limit int) []Reject {
	return p.rejects.list(device, limit)
}

// rejects keeps the last ones of each device.
type rejects struct {
	mu     sync.Mutex
	seq    uint64
	recent list.List // *rejectList, most recent first
	by     map[devices.ID]*list.Element
}

type rejectList struct {
	device devices.ID
	last   []numbered // oldest first
}

type numbered struct {
	Reject
	seq uint64
}

func (l *rejects) add(key devices.ID, r Reject) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.by[key]
	if e == nil {
		if l.by == nil {
			l.by = make(map[devices.ID]*list.Element)
		}
		if len(l.by) >= rejectDevices {
			oldest := l.recent.Back()
			delete(l.by, l.recent.Remove(oldest).(*rejectList).device)
		}
		e = l.recent.PushFront(&rejectList{device: key})
		l.by[key] = e
	}
	l.recent.MoveToFront(e)
	of := e.Value.(*rejectList)
	if len(of.last) == perDevice {
		of.last = append(of.last[:0], of.last[1:]...)
	}
	l.seq++
	of.last = append(of.last, numbered{r, l.seq})
}

func (l *rejects) list(device devices.ID, limit int) []Reject {
	l.mu.Lock()
	var all []numbered
	if device != "" {
		if e := l.by[device]; e != nil {
			all = slices.Clone(e.Value.(*rejectList).last)
		}
	} else {
		for e := l.recent.Front(); e != nil; e = e.Next() {
			all = append(all, e.Value.(*rejectList).last...)
		}
	}
	l.mu.Unlock()
	slices.SortFunc(all, func(a, b numbered) int { return cmp.Compare(b.seq, a.seq) })
	all = all[:min(max(limit, 0), len(all))]
	out := make([]Reject, len(all))
	for i := range all {
		out[i] = all[i].Reject
	}
	return out
}
