package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"millrace/dashboard/auth"
	"millrace/devices"
	"millrace/devices/catalog"
)

// History answers what is recorded. *history.Store is it; its methods say more.
type History interface {
	Width(q devices.HistoryQuery) int64
	Buckets(ctx context.Context, q devices.HistoryQuery, each func(id devices.SeriesID, buckets []devices.Bucket) error) error
	Samples(ctx context.Context, q devices.HistoryQuery, each func(id devices.SeriesID, samples []devices.Sample) error) error
}

// Limits of one question.
const (
	historySeries  = 500
	historyBuckets = 10_000           // of a series
	historyPoints  = 1_000_000        // buckets of all series together
	historyAtOnce  = 4                // questions that are being answered
	historyWait    = 10 * time.Second // of one more until it is its turn
	historyTime    = 5 * time.Minute  // from the first to the last byte
	historyDefault = 15 * time.Minute
	historyHeld    = 64 << 10 // bytes of an answer that are held back, so that an early error is still a clean one
)

// A historyRequest is a question with all that shapes its answer.
type historyRequest struct {
	devices.HistoryQuery
	series []devices.Series // of HistoryQuery.Series
	width  int64
	format string // json, columns, csv
}

func (a *API) history(c *fiber.Ctx) error {
	r, err := a.historyRequest(c, time.Now())
	if err != nil {
		return err
	}
	if err := a.historyTurn(c.UserContext()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.UserContext()), historyTime)
	body, err := stream(cancel, func(w io.Writer) error {
		defer func() { <-a.asked }()
		return a.writeHistory(ctx, w, r)
	})
	if err != nil {
		return err
	}
	c.Set(fiber.HeaderContentType, fiber.MIMEApplicationJSON)
	c.Set(fiber.HeaderVary, fiber.HeaderAccept)
	if r.format == "csv" {
		c.Set(fiber.HeaderContentType, "text/csv; charset=utf-8")
		c.Set(fiber.HeaderContentDisposition, `attachment; filename="history.csv"`)
	}
	c.Context().SetBodyStream(body, -1) // is closed when all is written and when the client has left
	return nil
}

// historyTurn waits until fewer than historyAtOnce questions are being answered.
func (a *API) historyTurn(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, historyWait)
	defer cancel()
	select {
	case a.asked <- struct{}{}:
		return nil
	case <-wait.Done():
		return fiber.NewError(http.StatusServiceUnavailable, "too many questions to history are being answered; ask again")
	}
}

// stream runs write in the background and returns what it writes, as a body; closing that calls cancel, as the end of write does. An error before
// historyHeld bytes are written is returned; a later one ends the body with it.
func stream(cancel func(), write func(io.Writer) error) (io.ReadCloser, error) {
	pr, pw := io.Pipe()
	held := &holdBack{begun: make(chan struct{}), w: pw}
	done := make(chan error, 1)
	go func() {
		defer cancel()
		w := bufio.NewWriterSize(held, historyHeld)
		err := write(w)
		done <- err // before the last bytes, which nobody may be reading yet
		if err == nil {
			err = w.Flush()
		}
		_ = pw.CloseWithError(err)
	}()
	select {
	case err := <-done:
		if err != nil {
			return nil, err
		}
	case <-held.begun:
	}
	return cancelling{pr, cancel}, nil
}

// cancelling is a body whose reader may leave while nothing is being written.
type cancelling struct {
	*io.PipeReader
	cancel func()
}

func (c cancelling) Close() error {
	c.cancel()
	return c.PipeReader.Close()
}

// holdBack tells of the first write.
type holdBack struct {
	w     io.Writer
	begun chan struct{}
	told  bool
}

func (h *holdBack) Write(b []byte) (int, error) {
	if !h.told {
		h.told = true
		close(h.begun)
	}
	return h.w.Write(b)
}

// historyRequest reads the question and finds the series it means, of those the caller may see.
func (a *API) historyRequest(c *fiber.Ctx, now time.Time) (r historyRequest, err error) {
	r.To = now.UnixMilli()
	var names, metrics, pairs []string
	group, from := "", false
	c.Context().QueryArgs().VisitAll(func(key, value []byte) {
		v := string(value)
		var e error
		switch string(key) {
		case "device":
			names = append(names, v)
		case "metric":
			metrics = append(metrics, v)
		case "series":
			pairs = append(pairs, v)
		case "group":
			group = v
		case "from":
			r.From, e = moment("from", v)
			from = true
		case "to":
			r.To, e = moment("to", v)
		case "buckets":
			if r.Buckets, e = strconv.Atoi(v); e != nil || r.Buckets < 0 || r.Buckets > historyBuckets {
				e = devices.Invalid("buckets", "must be 0 (the samples themselves) to %d", historyBuckets)
			}
		case "shape":
			if v != "points" && v != "columns" {
				e = devices.Invalid("shape", "must be points or columns")
			} else if v == "columns" {
				r.format = "columns"
			}
		case "format":
			if v != "json" && v != "csv" {
				e = devices.Invalid("format", "must be json or csv")
			} else if v == "csv" {
				r.format = "csv"
			}
		}
		err = errors.Join(err, e)
	})
	if err != nil {
		return r, err
	}
	if r.format == "" && c.Accepts(fiber.MIMEApplicationJSON, "text/csv") == "text/csv" {
		r.format = "csv"
	}
	if len(c.Context().QueryArgs().Peek("buckets")) == 0 {
		r.Buckets = 1000
	}
	if !from {
		r.From = r.To - historyDefault.Milliseconds()
	}
	if r.From >= r.To {
		return r, devices.Invalid("from", "must be before to")
	}
	if err := a.findSeries(c, &r, names, metrics, pairs, group); err != nil {
		return r, err
	}
	seen := map[devices.SeriesID]bool{}
	r.series = slices.DeleteFunc(r.series, func(s devices.Series) bool {
		again := seen[s.ID]
		seen[s.ID] = true
		return again
	})
	if n := len(r.series); n > historySeries {
		return r, devices.Invalid("series", "%d series are meant; at most %d can be asked for at once", n, historySeries)
	}
	if n := len(r.series) * r.Buckets; n > historyPoints {
		return r, devices.Invalid("buckets", "%d series of %d buckets are over the limit of %d in all", len(r.series), r.Buckets, historyPoints)
	}
	for _, s := range r.series {
		r.Series = append(r.Series, s.ID)
	}
	r.width = a.d.History.Width(r.HistoryQuery)
	return r, nil
}

// findSeries resolves what the parameters name. What is named must be there and visible; of a group or device all that is visible is meant.
func (a *API) findSeries(c *fiber.Ctx, r *historyRequest, names, metrics, pairs []string, group string) error {
	caller := auth.Caller(c)
	one := func(device, metric string) error {
		if id, ok := a.d.Catalog.Known([]byte(device), []byte(metric)); ok {
			if s, groups, ok := a.d.Catalog.Series(id); ok && caller.CanAny(devices.Viewer, groups) {
				r.series = append(r.series, s)
				return nil
			}
		}
		return fmt.Errorf("series %s/%s: %w", device, metric, devices.ErrNotFound)
	}
	all := func(device devices.ID) (found bool) {
		d := a.d.Catalog.Device(device)
		if d == nil || !caller.CanAny(devices.Viewer, d.Info().Groups) {
			return false
		}
		var of []devices.Series
		for _, id := range d.AllSeries() {
			if s, _, ok := a.d.Catalog.Series(id); ok && (len(metrics) == 0 || slices.Contains(metrics, s.Metric)) {
				of = append(of, s)
			}
		}
		slices.SortFunc(of, func(x, y devices.Series) int { return strings.Compare(x.Metric, y.Metric) })
		r.series = append(r.series, of...)
		return true
	}
	for _, p := range pairs {
		device, metric, ok := strings.Cut(p, "/")
		if !ok {
			return devices.Invalid("series", "%q is not device/metric", p)
		}
		if err := one(device, metric); err != nil {
			return err
		}
	}
	switch {
	case group != "":
		if len(names) > 0 {
			return devices.Invalid("device", "goes without group")
		}
		path := devices.GroupPath(group)
		if _, err := a.d.Inventory.Group(c.UserContext(), caller, path); err != nil {
			return err
		}
		members := a.d.Catalog.DevicesIn(path)
		slices.SortFunc(members, func(x, y *catalog.Device) int { return strings.Compare(string(x.ID()), string(y.ID())) })
		for _, d := range members {
			all(d.ID())
		}
	case len(metrics) == 0 || len(names) == 0:
		if len(metrics) > 0 {
			return devices.Invalid("metric", "goes with device or group")
		}
		for _, name := range names {
			if !all(devices.ID(name)) {
				return fmt.Errorf("device %s: %w", name, devices.ErrNotFound)
			}
		}
	case len(names) != len(metrics) && len(names) != 1 && len(metrics) != 1:
		return devices.Invalid("metric", "%d devices and %d metrics are no pairs", len(names), len(metrics))
	default:
		for i := range max(len(names), len(metrics)) {
			if err := one(names[min(i, len(names)-1)], metrics[min(i, len(metrics)-1)]); err != nil {
				return err
			}
		}
	}
	if len(pairs)+len(names) == 0 && group == "" {
		return devices.Invalid("series", "name one as device/metric, or give device and metric, or group")
	}
	return nil
}

// moment reads a time: RFC 3339, or Unix seconds, milliseconds, microseconds or nanoseconds, told apart by size. It returns Unix milliseconds.
func moment(field, v string) (int64, error) {
	if t, err := time.Parse(time.RFC3339, strings.ReplaceAll(v, " ", "+")); err == nil { // + means a space in addresses
		return t.UnixMilli(), nil
	}
	n, err := strconv.ParseFloat(v, 64)
	if err != nil || math.IsNaN(n) || math.Abs(n) > 4e18 {
		return 0, devices.Invalid(field, "must be a time as in RFC 3339, such as 2026-11-24T08:00:00Z, or a Unix time")
	}
	switch abs := math.Abs(n); {
	case abs < 1e11:
		n *= 1000
	case abs >= 1e17:
		n /= 1e6
	case abs >= 1e14:
		n /= 1000
	}
	return int64(math.Round(n)), nil
}
