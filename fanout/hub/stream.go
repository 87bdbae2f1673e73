package hub

import (
	"fmt"
	"time"
)

// A stream is a sequence of messages that a client sends to a group in parts.
type stream struct {
	group    string
	noEcho   bool
	metadata map[string]string
	expected uint64
	idle     time.Duration
	deadline time.Time
}

// A StreamCloser is an Encoder that can tell the publisher of a stream that it is over.
type StreamCloser interface {
	StreamClosed(dst []byte, id string, err *StreamError) []byte
}

// maxStreams is how many streams a connection may have open.
const maxStreams = 100

// idleStream is how long a stream may be silent if it says nothing else.
const idleStream = 5 * time.Minute

// OpenStream begins a stream to a group. idle 0 is five minutes.
func (c *Conn) OpenStream(id, group string, noEcho bool, metadata map[string]string, idle time.Duration) *StreamError {
	if err := c.maySend(group); err != nil {
		return &StreamError{Name: "Forbidden", Message: err.Error()}
	}
	if idle == 0 {
		idle = idleStream
	}
	c.mu.Lock()
	switch {
	case id == "" || idle < 0:
		c.mu.Unlock()
		return &StreamError{Name: "BadRequest", Message: "The stream needs an id and a positive idle timeout."}
	case c.streams[id] != nil:
		c.mu.Unlock()
		return &StreamError{Name: "BadRequest", Message: fmt.Sprintf("Stream '%s' already exists.", id)}
	case len(c.streams) >= maxStreams:
		c.mu.Unlock()
		return &StreamError{Name: "BadRequest", Message: "The client has too many open streams."}
	}
	if c.streams == nil {
		c.streams = map[string]*stream{}
	}
	c.streams[id] = &stream{group: group, noEcho: noEcho, metadata: metadata, expected: 1, idle: idle, deadline: c.hub.service.now().Add(idle)}
	c.mu.Unlock()
	c.hub.service.set(c.hub.service.streams, c, true)
	return nil
}

// StreamData sends a part of a stream; numbered false keeps it open only. It returns the number that is expected next, and whether
// the part's was it or an earlier one: then it has been published. An error ends the stream.
func (c *Conn) StreamData(id string, seq uint64, numbered bool, data Data) (expected uint64, ok bool, over *StreamError) {
	c.mu.Lock()
	s := c.streams[id]
	if s == nil {
		c.mu.Unlock()
		return 0, false, &StreamError{Name: "StreamNotFound", Message: fmt.Sprintf("Stream '%s' is not found.", id)}
	}
	s.deadline = c.hub.service.now().Add(s.idle)
	allowed := c.permissions[SendToGroup].allowed(s.group)
	fits := numbered && seq == s.expected && allowed
	if fits {
		s.expected++
	}
	if !allowed {
		delete(c.streams, id)
	}
	expected = s.expected
	c.mu.Unlock()
	switch {
	case !allowed:
		over = &StreamError{Name: "Forbidden", Message: c.maySend(s.group).Error()}
		c.streamOver(id, s, over)
		return 0, false, over
	case fits:
		c.streamSend(s, data, &Fragment{ID: id, Seq: seq})
	}
	return expected, !numbered || seq < expected, nil
}

// EndStream ends a stream; why is nil when it ended well. An error says that there is no such stream.
func (c *Conn) EndStream(id string, why *StreamError) *StreamError {
	c.mu.Lock()
	s := c.streams[id]
	delete(c.streams, id)
	c.mu.Unlock()
	if s == nil {
		return &StreamError{Name: "StreamNotFound", Message: fmt.Sprintf("Stream '%s' is not found.", id)}
	}
	c.streamOver(id, s, why)
	return nil
}

func (c *Conn) streamSend(s *stream, data Data, f *Fragment) {
	m := &Message{Group: s.group, User: c.spec.User, Data: data, Metadata: s.metadata, Stream: f}
	var excluded []string
	if s.noEcho {
		excluded = []string{c.spec.ID}
	}
	c.hub.SendGroup(m, excluded, nil)
}

// streamOver tells the members that a stream has ended. Its empty text is there because clients discard what has no data.
func (c *Conn) streamOver(id string, s *stream, why *StreamError) {
	c.streamSend(s, Data{Kind: Text, Bytes: []byte{}}, &Fragment{ID: id, Seq: s.expected, End: true, Error: why})
}

// expireStreams ends the streams that have been silent for too long.
func (c *Conn) expireStreams(now time.Time) {
	over := map[string]*stream{}
	c.mu.Lock()
	for id, s := range c.streams {
		if !now.Before(s.deadline) {
			over[id] = s
			delete(c.streams, id)
		}
	}
	left := len(c.streams)
	c.mu.Unlock()
	for id, s := range over {
		why := &StreamError{Name: "IdleTimeout", Message: "The stream was idle for too long."}
		if closer, ok := c.spec.Encoder.(StreamCloser); ok {
			c.Control(closer.StreamClosed(nil, id, why))
		}
		c.streamOver(id, s, why)
	}
	if left == 0 {
		c.hub.service.set(c.hub.service.streams, c, false)
	}
}
