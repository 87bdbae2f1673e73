package webpubsub

import (
	"context"
	"errors"
	"strings"

	"millrace/dashboard/webpubsub/protocol"
	"millrace/fanout/hub"
)

// errInternal is what a client is told of trouble that is not its own.
var errInternal = &hub.Error{Name: "InternalServerError", Message: "Internal server error"}

// request does what a client asks for.
func (s *session) request(r *protocol.Request) {
	switch r.Type {
	case protocol.Ping:
		s.hc.Control(s.codec.Pong(nil))
	case protocol.SequenceAck:
		s.hc.Acked(r.Sequence)
	case protocol.JoinGroup:
		s.once(r, func() error { return s.hc.Join(r.Group) })
	case protocol.LeaveGroup:
		s.once(r, func() error { return s.hc.Leave(r.Group) })
	case protocol.SendToGroup:
		if r.Stream != nil {
			s.openStream(r)
			return
		}
		s.once(r, func() error {
			if err := s.hc.Publish(&hub.Message{Group: r.Group, Data: r.Data, Metadata: r.Metadata, TTL: r.TTL}, r.NoEcho); err != nil {
				return err
			}
			return s.e.measureMessage(s.work.ctx, s.hc, r.Group, r.Data)
		})
	case protocol.Event:
		s.event(r)
	case protocol.Invoke:
		s.invoke(r)
	case protocol.CancelInvocation:
		s.work.forget(r.InvocationID)
	case protocol.StreamData:
		s.streamData(r)
	case protocol.StreamEnd:
		s.hc.Control(s.codec.StreamClosed(nil, r.StreamID, s.hc.EndStream(r.StreamID, endError(r.EndError))))
	case protocol.SetGroupState:
		s.once(r, func() error { return s.hc.SetGroupState(r.Group, r.State) })
	case protocol.SubscribeGroupState:
		s.watch(r)
	case protocol.UnsubscribeGroupState:
		s.once(r, func() error { s.hc.UnwatchGroupState(r.Group); return nil })
	}
}

// refused answers a request that has succeeded before: it is not done again.
func (s *session) refused(r *protocol.Request) bool {
	if !r.HasAck {
		return false
	}
	err := s.hc.Seen(r.AckID)
	if err != nil {
		s.hc.Control(s.codec.Ack(nil, r.AckID, err))
	}
	return err != nil
}

// once does a request unless it was done before, and acknowledges it.
func (s *session) once(r *protocol.Request, do func() error) {
	if !s.refused(r) {
		s.acknowledge(r, do())
	}
}

// acknowledge tells the client how its request went, if it asked.
func (s *session) acknowledge(r *protocol.Request, err error) {
	if err != nil {
		s.e.counts.refusedRequests.Add(1)
	}
	if !r.HasAck {
		return
	}
	if err == nil {
		s.hc.Succeeded(r.AckID)
		s.hc.Control(s.codec.Ack(nil, r.AckID, nil))
		return
	}
	why, ok := errors.AsType[*hub.Error](err)
	if !ok {
		why = errInternal
	}
	s.hc.Control(s.codec.Ack(nil, r.AckID, why))
}

// event hands a user event to its handler; its answer comes before the acknowledgement.
func (s *session) event(r *protocol.Request) {
	request := *r
	s.work.do(func(ctx context.Context) {
		s.once(&request, func() error { return s.userEvent(ctx, request.Event, request.Data, request.Metadata) })
	})
}

// invoke is an event whose answer is told apart from others by a name.
func (s *session) invoke(r *protocol.Request) {
	ctx, known := s.work.remember(r.InvocationID)
	if known {
		s.hc.Control(s.codec.InvokeResponse(nil, r.InvocationID, nil, &hub.Error{Name: "BadRequest", Message: "There is a pending invocation of that id."}))
		return
	}
	request := *r
	s.work.do(func(context.Context) {
		answer, err := s.e.ask(ctx, s.hc, request.Event, request.Data, request.Metadata)
		cancelled := ctx.Err() != nil
		s.work.forget(request.InvocationID)
		switch {
		case cancelled:
		case err != nil:
			s.hc.Control(s.codec.InvokeResponse(nil, request.InvocationID, nil, errInternal))
		default:
			var data *hub.Data
			if answer != nil {
				data = answer.Data
			}
			s.hc.Control(s.codec.InvokeResponse(nil, request.InvocationID, data, nil))
		}
	})
}

// remember notes a pending invocation; known says that there is one of that name already.
func (w *work) remember(id string) (ctx context.Context, known bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, known = w.invocations[id]; known {
		return nil, true
	}
	ctx, w.invocations[id] = context.WithCancel(w.ctx)
	return ctx, false
}

// forget ends a pending invocation.
func (w *work) forget(id string) {
	w.mu.Lock()
	cancel := w.invocations[id]
	delete(w.invocations, id)
	w.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

func (s *session) openStream(r *protocol.Request) {
	if err := s.hc.OpenStream(r.Stream.ID, r.Group, r.NoEcho, r.Metadata, r.Stream.Idle); err != nil {
		s.hc.Control(s.codec.StreamClosed(nil, r.Stream.ID, err))
		return
	}
	if r.HasAck {
		s.acknowledge(r, nil)
	}
	s.hc.Control(s.codec.StreamAck(nil, r.Stream.ID, 1))
}

func (s *session) streamData(r *protocol.Request) {
	expected, ok, err := s.hc.StreamData(r.StreamID, r.StreamSeq, r.HasStreamSeq, r.Data)
	switch {
	case err != nil:
		s.hc.Control(s.codec.StreamClosed(nil, r.StreamID, err))
	case !ok:
		s.hc.Control(s.codec.StreamNack(nil, r.StreamID, expected, "InvalidSequenceId", "The sequence id is not the expected one."))
	case r.HasStreamSeq:
		s.hc.Control(s.codec.StreamAck(nil, r.StreamID, expected))
	}
}

// endError is how a publisher's own error reaches the members.
func endError(e *hub.StreamError) *hub.StreamError {
	if e == nil {
		return nil
	}
	return &hub.StreamError{Name: "UserError", Message: e.Message, UserCode: e.UserCode}
}

// watch subscribes to the states of a group. The acknowledgement comes before the snapshot.
func (s *session) watch(r *protocol.Request) {
	if s.refused(r) {
		return
	}
	if err := s.hc.WatchGroupState(r.Group, func() { s.acknowledge(r, nil) }); err != nil {
		s.acknowledge(r, err)
	}
}

// permissionOf names a permission in any case, or by its number.
func permissionOf(name string) (hub.Permission, bool) {
	switch strings.ToLower(name) {
	case "sendtogroup", "1":
		return hub.SendToGroup, true
	case "joinleavegroup", "2":
		return hub.JoinLeaveGroup, true
	}
	return 0, false
}
