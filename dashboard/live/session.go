package live

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	"millrace/dashboard/socket"
	"millrace/devices"
	"millrace/fanout"
)

// The server's time is told after timeEvery at the latest: the protocol says each second. After timeAlong it goes along with a frame,
// which spares a write(2) and a wake-up.
const (
	timeEvery = 900 * time.Millisecond
	timeAlong = 700 * time.Millisecond
)

// A session is one viewer's WebSocket. The reading goroutine only puts messages into the inbox; the writing one does what
// they ask and owns all the rest. So answers and frames are in order, and a viewer that takes nothing holds up itself.
type session struct {
	h      *Handler
	conn   *socket.Conn
	viewer *viewer

	mu     sync.Mutex
	inbox  [][]byte
	size   int               // bytes of the inbox
	credit map[uint32]uint64 // painted up to, by subscription; what came since is merged
	pinged bool
	tokens float64 // what is left of the message rate
	last   time.Time

	subs []*subscription // by rising age
	told time.Time       // when the time was last told
}

type subscription struct {
	id    uint32
	group devices.GroupPath
	delivery
	enc fanout.Encoder
	*fanout.Subscription
}

// Message implements socket.Session. Credits and pings are merged with those that wait, so that only subscriptions can
// fill the inbox of a viewer that takes no answers.
func (s *session) Message(text bool, p []byte) error {
	if !text {
		return &socket.CloseError{Code: socket.UnsupportedData, Reason: "control messages are JSON text"}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.last.IsZero() {
		s.tokens = messageBurst
	} else {
		s.tokens = min(messageBurst, s.tokens+now.Sub(s.last).Seconds()*messageRate)
	}
	s.last = now
	if s.tokens--; s.tokens < 0 {
		return &socket.CloseError{Code: socket.TooManyMessages, Reason: fmt.Sprintf("more than %d control messages a second", messageRate)}
	}
	if !s.merge(p) {
		if s.size += len(p); len(s.inbox) >= maxWaiting || s.size > maxWaitingBytes {
			return &socket.CloseError{Code: socket.TooManyMessages, Reason: "too many control messages wait to be answered"}
		}
		s.inbox = append(s.inbox, bytes.Clone(p))
	}
	s.conn.Wake()
	return nil
}

// merge takes credits and pings. Credit can go before what waits in the inbox: it is for a frame that was sent, so for a
// subscription that was answered. Other messages are left to the writing goroutine to parse, for the stack that takes would
// stay with the reading one; but when many wait, each is looked at here.
func (s *session) merge(p []byte) bool {
	var r request
	switch {
	case string(p) == `{"type":"ping"}`:
		r.Type = "ping"
	case bytes.HasPrefix(p, creditStart):
		id, rest, ok := cutNumber(p[len(creditStart):])
		if !ok || !bytes.HasPrefix(rest, creditSeq) || id > math.MaxUint32 {
			return false
		}
		r.Type, r.ID = "credit", uint32(id)
		if r.Seq, rest, ok = cutNumber(rest[len(creditSeq):]); !ok || string(rest) != "}" {
			return false
		}
	case len(s.inbox) < maxWaiting/16:
		return false
	default:
		var err error
		if r, err = parseRequest(p); err != nil {
			return false
		}
	}
	switch r.Type {
	case "ping":
		s.pinged = true
	case "credit":
		if s.credit == nil {
			s.credit = make(map[uint32]uint64, 1)
		}
		if _, known := s.credit[r.ID]; known || len(s.credit) < maxSubscriptions {
			s.credit[r.ID] = max(s.credit[r.ID], r.Seq)
		}
	default:
		return false
	}
	return true
}

// A credit as most clients write it.
var creditStart, creditSeq = []byte(`{"type":"credit","id":`), []byte(`,"seq":`)

// cutNumber cuts a plain number of at most 18 digits off the front.
func cutNumber(p []byte) (n uint64, rest []byte, ok bool) {
	i := 0
	for i < len(p) && i < 18 && p[i] >= '0' && p[i] <= '9' {
		n = n*10 + uint64(p[i]-'0')
		i++
	}
	return n, p[i:], i > 0 && (i == 1 || p[0] != '0')
}

// buffers are for messages on their way out; viewers with nothing to say hold none.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// Write implements socket.Session.
func (s *session) Write(now time.Time) (rest time.Duration, err error) {
	buf := buffers.Get().(*[]byte)
	defer func() {
		if cap(*buf) <= 64<<10 {
			*buf = (*buf)[:0]
			buffers.Put(buf)
		}
	}()
	for {
		*buf = (*buf)[:0]
		*buf, err = s.answer(*buf, now)
		if err == nil && (s.viewer.recheck.Swap(false) || s.expired(now)) {
			*buf, err = s.review(*buf, now)
		}
		if err == nil && now.Sub(s.told) >= timeEvery {
			*buf = s.appendTime(*buf, now)
		}
		if err != nil {
			if failed := s.flush(buf); failed != nil {
				return 0, failed
			}
			return 0, err
		}
		more, sent, err := s.frames(buf, now)
		if err != nil {
			return 0, err
		}
		if sent { // which may have taken long
			now = time.Now()
		}
		if !more && now.Sub(s.told) < timeEvery {
			return timeEvery - now.Sub(s.told), nil
		}
	}
}

// flush sends what is in buf.
func (s *session) flush(buf *[]byte) error {
	if len(*buf) == 0 {
		return nil
	}
	err := s.conn.Send(*buf)
	*buf = (*buf)[:0]
	return err
}

// join is the size up to which a frame is copied behind other messages, so that one write(2) sends them; most are shorter.
const join = 16 << 10

// frames sends what is in buf, and at most one update of each subscription, so that none waits for another's second one. It
// reports whether there may be more to do at once, and whether it sent anything.
func (s *session) frames(buf *[]byte, now time.Time) (more, sent bool, err error) {
	for i := 0; i < len(s.subs); i++ {
		if s.viewer.recheck.Load() {
			more = true
			break
		}
		sub := s.subs[i]
		u, ok := sub.Next(now)
		if !ok {
			if sub.Err() != nil {
				*buf = s.closed(*buf, i, reasonGone)
				i--
			}
			continue
		}
		more = true
		if len(u.Added)+len(u.Removed) > 0 {
			*buf = appendMessage(*buf, seriesMessage{"series", sub.id, members(u.Added), orEmpty(u.Removed)})
		}
		if u.Frame == nil {
			continue
		}
		p := u.Frame.Packet(sub.enc, sub.id)
		s.h.frames.Add(1)
		s.h.frameBytes.Add(uint64(len(p)))
		if u.Frame.Snapshot {
			s.h.snapshots.Add(1)
		}
		sent = true
		if now.Sub(s.told) >= timeAlong {
			*buf = s.appendTime(*buf, now)
		}
		if len(*buf) > 0 && len(p) <= join {
			*buf = append(*buf, p...)
			p = nil
		}
		if err := s.flush(buf); err != nil {
			return false, sent, err
		}
		if p != nil {
			if err := s.conn.Send(p); err != nil {
				return false, sent, err
			}
		}
		if sub.auto {
			sub.Painted(u.Frame.Seq)
		}
	}
	sent = sent || len(*buf) > 0
	return more, sent, s.flush(buf)
}

// answer does what the waiting messages ask and appends the answers.
func (s *session) answer(dst []byte, now time.Time) ([]byte, error) {
	s.mu.Lock()
	inbox, credit, pinged := s.inbox, s.credit, s.pinged
	s.inbox, s.size, s.credit, s.pinged = nil, 0, nil, false
	s.mu.Unlock()
	for id, seq := range credit {
		if sub := s.find(id); sub != nil { // else it crossed the subscription's end: no fault of the client's
			sub.Painted(seq)
		}
	}
	for _, p := range inbox {
		r, err := parseRequest(p)
		if err == nil {
			dst, err = s.do(dst, &r, now)
		}
		if err != nil {
			s.h.refused.Add(1)
			dst = appendMessage(dst, refusal(&r, err))
		}
	}
	if pinged {
		dst = s.appendTime(dst, now)
	}
	return dst, nil
}

// A coded error is answered with its own code.
type coded struct{ code, message string }

func (e *coded) Error() string { return e.message }

func refusal(r *request, err error) errorMessage {
	m := errorMessage{Type: "error", ID: &r.ID, Code: errorCode(err), Message: err.Error()}
	if r.Type == "" || r.Type == "ping" {
		m.ID = nil
	}
	if c, ok := errors.AsType[*coded](err); ok {
		m.Code = c.code
	} else if m.Code == codeInternal {
		m.Message = "internal error"
	}
	return m
}

func (s *session) do(dst []byte, r *request, now time.Time) ([]byte, error) {
	switch r.Type {
	case "subscribe":
		return s.subscribe(dst, r, now)
	case "unsubscribe":
		for i, sub := range s.subs {
			if sub.id == r.ID {
				s.drop(i)
				return dst, nil
			}
		}
		return dst, &coded{codeNotFound, "there is no subscription with this id"}
	case "credit":
		if sub := s.find(r.ID); sub != nil {
			sub.Painted(r.Seq)
		}
		return dst, nil
	case "ping":
		return s.appendTime(dst, now), nil
	}
	return dst, &coded{codeUnsupported, "commands are not supported by this server"}
}

func (s *session) subscribe(dst []byte, r *request, now time.Time) ([]byte, error) {
	o, d, err := r.options()
	if err != nil {
		return dst, err
	}
	if s.find(r.ID) != nil {
		return dst, &coded{codeExists, "a subscription with this id is open"}
	}
	if len(s.subs) >= maxSubscriptions {
		return dst, &coded{codeTooMany, fmt.Sprintf("a connection may have %d subscriptions", maxSubscriptions)}
	}
	o.Wake = s.conn.Wake
	sub, start, err := s.h.subscribe(s.h.principal(s.viewer, now), o)
	if err != nil {
		if errorCode(err) == codeInternal {
			s.h.log.Error("subscribing failed", "group", string(o.Group), "err", err)
		}
		return dst, err
	}
	enc := s.h.binary
	if d.json {
		enc = s.h.json
	}
	s.subs = append(s.subs, &subscription{id: r.ID, group: o.Group, delivery: d, enc: enc, Subscription: sub})
	return appendMessage(dst, subscribedMessage{"subscribed", r.ID, start.Epoch, start.Seq, members(start.Series)}), nil
}

// expired reports whether the viewer's time is over.
func (s *session) expired(now time.Time) bool {
	return !s.viewer.expires.IsZero() && !now.Before(s.viewer.expires)
}

// review ends what the viewer may not see any more.
func (s *session) review(dst []byte, now time.Time) ([]byte, error) {
	p := s.h.principal(s.viewer, now)
	for i := 0; i < len(s.subs); i++ {
		if reason := s.h.sees(p, s.subs[i].group); reason != "" {
			dst = s.closed(dst, i, reason)
			i--
		}
	}
	switch {
	case p != nil:
		return dst, nil
	case s.expired(now) || s.viewer.ended.Load():
		return dst, &socket.CloseError{Code: socket.Expired, Reason: "the session or token has ended: sign in again"}
	}
	return dst, &socket.CloseError{Code: socket.Revoked, Reason: "the user or token is no longer known: sign in again"}
}

// closed drops the subscription and appends why.
func (s *session) closed(dst []byte, i int, reason string) []byte {
	if reason == reasonForbidden {
		s.h.revoked.Add(1)
	}
	id := s.subs[i].id
	s.drop(i)
	return appendMessage(dst, closedMessage{"closed", id, reason})
}

func (s *session) drop(i int) {
	s.subs[i].Close()
	s.subs = append(s.subs[:i], s.subs[i+1:]...)
}

func (s *session) find(id uint32) *subscription {
	for _, sub := range s.subs {
		if sub.id == id {
			return sub
		}
	}
	return nil
}

func (s *session) appendTime(dst []byte, now time.Time) []byte {
	s.told = now
	start := len(dst)
	dst = append(socket.Begin(dst), `{"type":"time","at":`...) // by hand: it is all that wakes an idle viewer
	dst = append(strconv.AppendInt(dst, now.UnixMilli(), 10), '}')
	return socket.Seal(dst, start, true)
}

// End implements socket.Session.
func (s *session) End() {
	s.h.remove(s.viewer)
	for _, sub := range s.subs {
		sub.Close()
	}
}

func appendMessage(dst []byte, v any) []byte {
	start := len(dst)
	return socket.Seal(appendJSON(socket.Begin(dst), v), start, true)
}

// orEmpty makes a nil list one that JSON shows as [].
func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
