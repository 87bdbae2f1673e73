package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"

	"millrace/cmd/internal/client"
	"millrace/fanout/wire"
)

// watchCmd shows a group's live values.
type watchCmd struct {
	Server string   `default:"http://localhost:8080" help:"Address of the server."`
	Token  string   `required:"" help:"API token that may view the group."`
	Pace   float64  `default:"4" help:"Most frames a second; 0: as many as there are."`
	Lines  bool     `help:"Print a line for each change, also on a terminal."`
	Group  string   `arg:"" help:"Path of the group."`
	Series []string `arg:"" optional:"" help:"device/metric, each may be *; without any, all."`
}

// row is a series as it is shown.
type row struct {
	device, metric, unit, kind string
	point                      wire.Point
	samples                    uint64
	there                      bool
}

type watcher struct {
	c     *watchCmd
	con   *console
	rows  map[uint32]*row
	tty   bool
	epoch string         // of the subscription
	from  map[string]any // to resume after: epoch and seq of the last frame taken; nil before the first
	note  string
}

func (c *watchCmd) Run(ctx context.Context, con *console) error {
	api, err := client.New(c.Server, c.Token)
	if err != nil {
		return err
	}
	f, isFile := con.out.(*os.File)
	w := &watcher{c: c, con: con, rows: map[uint32]*row{}, tty: !c.Lines && isFile && isTerminal(f)}
	for pause := 250 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		began := time.Now()
		err := w.connect(ctx, api)
		var final *refusal
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &final):
			return err
		}
		if time.Since(began) > 10*time.Second {
			pause = 250 * time.Millisecond
		}
		fmt.Fprintf(con.err, "connection lost (%v), trying again\n", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// refusal is an answer that trying again won't change.
type refusal struct{ text string }

func (r *refusal) Error() string { return r.text }

func (w *watcher) connect(ctx context.Context, api *client.Client) error {
	ws, res, err := websocket.Dial(ctx, api.Live(), &websocket.DialOptions{Subprotocols: []string{"millrace.v1"},
		HTTPHeader: http.Header{"Authorization": {"Bearer " + w.c.Token}}})
	if err != nil {
		if res != nil && (res.StatusCode == http.StatusUnauthorized || res.StatusCode == http.StatusForbidden) {
			return &refusal{"the server does not take this token: " + res.Status}
		}
		return err
	}
	defer ws.CloseNow()
	ws.SetReadLimit(64 << 20)
	ask := map[string]any{"type": "subscribe", "id": 1, "group": w.c.Group, "detail": "envelope"}
	if w.c.Pace > 0 {
		ask["pace"] = w.c.Pace
	}
	if len(w.c.Series) > 0 {
		ask["series"] = w.c.Series
	}
	if w.from != nil {
		ask["from"] = w.from
	}
	if err := send(ctx, ws, ask); err != nil {
		return err
	}
	for {
		kind, message, err := ws.Read(ctx)
		if err != nil {
			if ctx.Err() != nil {
				_ = ws.Close(websocket.StatusNormalClosure, "")
			}
			return err
		}
		if kind == websocket.MessageText {
			if err := w.control(message); err != nil {
				return err
			}
			continue
		}
		f, err := wire.DecodeFrame(message)
		if err != nil {
			return err
		}
		w.take(f)
		if err := send(ctx, ws, map[string]any{"type": "credit", "id": 1, "seq": f.Seq}); err != nil {
			return err
		}
	}
}

func send(ctx context.Context, ws *websocket.Conn, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return ws.Write(ctx, websocket.MessageText, b)
}

func (w *watcher) control(message []byte) error {
	type member struct {
		Index                      uint32
		Device, Metric, Unit, Kind string
	}
	var m struct {
		Type, Code, Message, Reason, Epoch string
		Series, Added                      []member
		Removed                            []uint32
	}
	if err := json.Unmarshal(message, &m); err != nil {
		return err
	}
	switch m.Type {
	case "subscribed":
		if w.epoch != m.Epoch { // numbers of another epoch mean nothing in this one
			w.epoch, w.from = m.Epoch, nil
		}
		old := map[string]*row{}
		for _, r := range w.rows {
			old[r.device+"/"+r.metric] = r
		}
		clear(w.rows)
		for _, s := range m.Series {
			w.rows[s.Index] = orElse(old[s.Device+"/"+s.Metric], &row{device: s.Device, metric: s.Metric, unit: s.Unit, kind: s.Kind})
		}
		w.note = fmt.Sprintf("%d series of %s", len(m.Series), w.c.Group)
	case "series":
		for _, s := range m.Added {
			w.rows[s.Index] = &row{device: s.Device, metric: s.Metric, unit: s.Unit, kind: s.Kind}
		}
		for _, i := range m.Removed {
			delete(w.rows, i)
		}
	case "error":
		return &refusal{m.Code + ": " + m.Message}
	case "closed":
		return &refusal{"the subscription was closed: " + m.Reason}
	}
	return nil
}

func orElse(a, b *row) *row {
	if a != nil {
		return a
	}
	return b
}

func (w *watcher) take(f *wire.Frame) {
	w.from = map[string]any{"epoch": w.epoch, "seq": f.Seq}
	for _, p := range f.Points {
		r := w.rows[p.Index]
		if r == nil {
			continue
		}
		r.point, r.there = p, true
		r.samples += uint64(p.Count)
		if !w.tty {
			fmt.Fprintf(w.con.out, "%s  %s/%s  %s  %s\n", time.UnixMilli(p.T).Format("15:04:05.000"), r.device, r.metric, r.value(), r.state())
		}
	}
	if w.tty {
		w.draw()
	}
}

// value is the last value with its unit.
func (r *row) value() string {
	p := &r.point
	switch {
	case p.HasText:
		return strconv.Quote(p.Text)
	case r.kind == "bool":
		return strconv.FormatBool(p.Last != 0)
	case r.kind == "location":
		return fmt.Sprintf("%.5f, %.5f", p.Last, p.Lon)
	}
	return strings.TrimSpace(strconv.FormatFloat(p.Last, 'f', -1, 64) + " " + r.unit)
}

// state is what else there is to say: extremes of the frame when they differ from the last value, and quality when it is not good.
func (r *row) state() string {
	p := &r.point
	var s []string
	if p.Count > 1 && (r.kind == "float" || r.kind == "int") && p.Max > p.Min {
		s = append(s, fmt.Sprintf("%.4g to %.4g in %d", p.Min, p.Max, p.Count))
	}
	if p.Quality != 0 {
		s = append(s, p.Quality.String())
	}
	return strings.Join(s, ", ")
}

// draw paints the table over the one before, as many rows as the terminal has.
func (w *watcher) draw() {
	height, width := terminalSize()
	all := make([]*row, 0, len(w.rows))
	for _, r := range w.rows {
		if r.there {
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b *row) int { return strings.Compare(a.device+"/"+a.metric, b.device+"/"+b.metric) })
	var b strings.Builder
	b.WriteString("\x1b[H")
	line := func(format string, args ...any) {
		runes := []rune(fmt.Sprintf(format, args...))
		b.WriteString(string(runes[:min(len(runes), width)]) + "\x1b[K\r\n")
	}
	line("%s  %s  (interrupt to end)", time.Now().Format(time.TimeOnly), w.note)
	line("%-40s %24s  %6s  %s", "SERIES", "VALUE", "AGE", "")
	for i, r := range all {
		if i >= height-4 {
			line("… and %d more; name some of them to see them", len(all)-i)
			break
		}
		age := time.Since(time.UnixMilli(r.point.T)).Round(100 * time.Millisecond)
		line("%-40s %24s  %6s  %s", r.device+"/"+r.metric, r.value(), age, r.state())
	}
	b.WriteString("\x1b[J")
	fmt.Fprint(w.con.out, b.String())
}
