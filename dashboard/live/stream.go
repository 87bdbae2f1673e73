package live

import (
	"bufio"
	"fmt"
	"strconv"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/utils"

	"millrace/dashboard/auth"
	"millrace/devices"
	"millrace/fanout"
)

// heartbeat is how often a comment is sent to a client of the event stream when nothing else is: it is also how the server
// finds out that a client has left.
const heartbeat = 5 * time.Second

// groupParam is the group in a route's "+" parameter, which may be written with slashes or %2F (the app unescapes paths).
func groupParam(c *fiber.Ctx) (devices.GroupPath, error) {
	p := devices.GroupPath(c.Params("+"))
	return p, p.Validate()
}

// stream answers with the frames of a group as server-sent events (HTML Living Standard, 9.2).
func (h *Handler) stream(c *fiber.Ctx) error {
	who := auth.Caller(c)
	if who.Principal == nil {
		return devices.ErrUnauthorized
	}
	group, err := groupParam(c)
	if err != nil {
		return err
	}
	r, err := streamRequest(c)
	if err != nil {
		return err
	}
	r.Group = group
	o, d, err := r.options()
	if err != nil {
		return err
	}
	if !d.json || !d.auto {
		return devices.Invalid("format", "the event stream has format json and credit auto only")
	}
	v := h.viewer(c, who.Principal)
	woken := make(chan struct{}, 1)
	v.wake = func() {
		select {
		case woken <- struct{}{}:
		default:
		}
	}
	o.Wake = v.wake
	h.mu.Lock()
	stopped := h.stopped
	if !stopped {
		h.streams.Add(1)
	}
	h.mu.Unlock()
	if stopped {
		return unavailable
	}
	sub, start, err := h.subscribe(who.Principal, o)
	if err != nil {
		h.streams.Done()
		return err
	}
	h.add(v)
	c.Set(fiber.HeaderContentType, "text/event-stream; charset=utf-8")
	c.Set(fiber.HeaderCacheControl, "no-store")
	c.Set("X-Accel-Buffering", "no") // nginx would hold events back
	c.Context().SetBodyStreamWriter(func(w *bufio.Writer) {
		defer h.streams.Done()
		defer h.remove(v)
		defer sub.Close()
		e := &events{h: h, w: w, viewer: v, group: group, sub: sub}
		e.run(start, woken) // its error means that the client has left
	})
	return nil
}

func streamRequest(c *fiber.Ctx) (r request, err error) {
	c.Context().QueryArgs().VisitAll(func(key, value []byte) {
		if err == nil {
			err = r.parameter(string(key), string(value))
		}
	})
	if err != nil {
		return r, err
	}
	if r.Format == "" {
		r.Format = "json"
	}
	// What the browser saw last outranks what the address said at first.
	if last := c.Get("Last-Event-ID"); last != "" {
		if from, err := parsePosition(utils.CopyString(last)); err == nil {
			r.From = from
		}
	}
	return r, nil
}

// parameter sets what a query parameter says.
func (r *request) parameter(key, v string) (err error) {
	switch key {
	case "series":
		r.Series = append(r.Series, v)
	case "pace":
		if r.Pace, err = strconv.ParseFloat(v, 64); err != nil {
			return devices.Invalid("pace", "is no number")
		}
	case "detail":
		r.Detail = v
	case "format":
		r.Format = v
	case "credit":
		r.Credit = v
	case "from":
		r.From, err = parsePosition(v)
	case "access_token":
	default:
		return devices.Invalid(key, "the stream has no such parameter")
	}
	return err
}

// events writes one event stream. Frames are plain events, so that EventSource.onmessage gets frames only; the other messages are
// events named by their type.
type events struct {
	h      *Handler
	w      *bufio.Writer
	viewer *viewer
	group  devices.GroupPath
	sub    *fanout.Subscription
	buf    []byte
}

func (e *events) run(start fanout.Start, woken <-chan struct{}) {
	fmt.Fprintf(e.w, "retry: 2000\n\n")
	if e.message("subscribed", subscribedMessage{"subscribed", 0, start.Epoch, start.Seq, members(start.Series)}) != nil {
		return
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	said := time.Now()
	for {
		now := time.Now()
		if reason := e.over(now); reason != "" {
			if reason != "leave" {
				_ = e.message("closed", closedMessage{"closed", 0, reason})
			}
			return
		}
		if u, ok := e.sub.Next(now); ok {
			said = now
			if e.update(u) != nil {
				return
			}
			continue
		}
		if e.sub.Err() != nil {
			_ = e.message("closed", closedMessage{"closed", 0, reasonGone})
			return
		}
		if now.Sub(said) >= heartbeat {
			said = now
			fmt.Fprintf(e.w, ": %d\n\n", now.UnixMilli())
			if e.w.Flush() != nil {
				return
			}
		}
		timer.Reset(time.Second) // also the pace at which expiry is noticed
		select {
		case <-woken:
		case <-timer.C:
		}
	}
}

// over says why the stream must end; "" when it need not.
func (e *events) over(now time.Time) string {
	v := e.viewer
	if v.leave.Load() {
		return "leave"
	}
	if !v.recheck.Swap(false) && (v.expires.IsZero() || now.Before(v.expires)) {
		return ""
	}
	reason := e.h.sees(e.h.principal(v, now), e.group)
	if reason == reasonForbidden {
		e.h.revoked.Add(1)
	}
	return reason
}

func (e *events) update(u fanout.Update) error {
	if len(u.Added)+len(u.Removed) > 0 {
		if err := e.message("series", seriesMessage{"series", 0, members(u.Added), orEmpty(u.Removed)}); err != nil {
			return err
		}
	}
	f := u.Frame
	if f == nil {
		return nil
	}
	p := f.Packet(e.h.events, 0)
	fmt.Fprintf(e.w, "id: %s:%d\ndata: ", f.Epoch, f.Seq)
	e.w.Write(p)
	e.w.WriteString("\n\n")
	e.h.frames.Add(1)
	e.h.frameBytes.Add(uint64(len(p)))
	if f.Snapshot {
		e.h.snapshots.Add(1)
	}
	if err := e.w.Flush(); err != nil {
		return err
	}
	e.sub.Painted(f.Seq)
	return nil
}

// message writes an event named by its type; its data has no line breaks.
func (e *events) message(name string, v any) error {
	e.buf = appendJSON(e.buf[:0], v)
	fmt.Fprintf(e.w, "event: %s\ndata: %s\n\n", name, e.buf)
	return e.w.Flush()
}
