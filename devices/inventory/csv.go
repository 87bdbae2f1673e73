package inventory

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"millrace/devices"
)

// columns of the CSV of devices, in the order of exports.
var columns = []string{"id", "label", "type", "groups", "state", "expectedIntervalMs", "attributes"}

const maxRows = 50_000

// ImportReport says what an import did, or with dryRun would do.
type ImportReport struct {
	Created, Updated, Unchanged int
	Tokens                      []ImportedToken // of created devices, shown this once
	Errors                      []ImportError
}

// ImportedToken is the first credential of a device made by an import.
type ImportedToken struct {
	Device devices.ID `json:"device"`
	Token  string     `json:"token"`
}

// ImportError is one row that could not be taken.
type ImportError struct {
	Line   int    `json:"line"`
	Reason string `json:"reason"`
}

// ImportDevices reads CSV with a header of id and any of label, type, groups (joined by ';'), state, expectedIntervalMs and
// attributes. It creates devices that are missing and updates the rest, where a column that is not there stays as it is. A bad row is
// reported by line and nothing of it is written; the others are. With dryRun nothing is written at all. An error means that the
// file could not be read, or that the store did not answer; the report then says how far it came.
func (v *Inventory) ImportDevices(ctx context.Context, c Caller, r io.Reader, dryRun bool) (ImportReport, error) {
	var report ImportReport
	if err := signedIn(c); err != nil {
		return report, err
	}
	if !c.CanSomewhere(devices.Admin) {
		return report, devices.ErrForbidden
	}
	in := csv.NewReader(withoutBOM(r))
	in.FieldsPerRecord = -1
	in.TrimLeadingSpace = true
	at, err := readHeader(in)
	if err != nil {
		return report, err
	}
	var written []devices.Device
	seen := make(map[devices.ID]int)
	for {
		row, err := in.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if parse, ok := errors.AsType[*csv.ParseError](err); ok {
			report.Errors = append(report.Errors, ImportError{parse.Line, "no CSV from here on: " + parse.Err.Error()})
			break
		}
		if err != nil {
			return report, errors.Join(err, v.applyImport(ctx, written))
		}
		line, _ := in.FieldPos(0)
		if len(seen) >= maxRows {
			report.Errors = append(report.Errors, ImportError{line, fmt.Sprintf("more than %d rows; import the rest by itself", maxRows)})
			break
		}
		d, err := v.importRow(ctx, c, row, at, seen, line, dryRun, &report)
		if errors.Is(err, devices.ErrUnavailable) || ctx.Err() != nil {
			return report, errors.Join(err, v.applyImport(ctx, written))
		}
		if err != nil {
			report.Errors = append(report.Errors, ImportError{line, reason(err)})
		} else if d != nil {
			written = append(written, *d)
		}
	}
	return report, v.applyImport(ctx, written)
}

func (v *Inventory) applyImport(ctx context.Context, written []devices.Device) error {
	if len(written) == 0 {
		return nil
	}
	return v.apply(ctx, v.deviceChanges(written...)...)
}

// importRow takes one row over; it returns the device if it wrote it.
func (v *Inventory) importRow(ctx context.Context, c Caller, row []string, at map[string]int, seen map[devices.ID]int, line int, dryRun bool, report *ImportReport) (*devices.Device, error) {
	if len(row) != len(at) {
		return nil, fmt.Errorf("has %d fields; the header has %d", len(row), len(at))
	}
	id := devices.ID(strings.TrimSpace(row[at["id"]]))
	if err := id.Validate(); err != nil {
		return nil, err
	}
	if before, twice := seen[id]; twice {
		return nil, fmt.Errorf("device %s is in line %d already", id, before)
	}
	seen[id] = line
	p, err := readRow(row, at)
	if err != nil {
		return nil, err
	}
	there, err := v.store.Device(ctx, id)
	if errors.Is(err, devices.ErrNotFound) {
		return v.importNew(ctx, c, id, p, dryRun, report)
	}
	if err != nil {
		return nil, err
	}
	now := there
	if err := p.apply(c, &now); err != nil {
		if errors.Is(err, devices.ErrNotFound) { // the id is taken, by a device the caller can't see
			err = devices.ErrExists
		}
		return nil, err
	}
	if same(there, now) {
		report.Unchanged++
		return nil, nil
	}
	if !dryRun {
		if now, err = v.updateDevice(ctx, c, id, p); err != nil {
			return nil, err
		}
	}
	report.Updated++
	if dryRun {
		return nil, nil
	}
	return &now, nil
}

func (v *Inventory) importNew(ctx context.Context, c Caller, id devices.ID, p DevicePatch, dryRun bool, report *ImportReport) (*devices.Device, error) {
	d := devices.Device{ID: id}
	set(&d.Label, p.Label)
	set(&d.Type, p.Type)
	set(&d.Groups, p.Groups)
	set(&d.State, p.State)
	set(&d.ExpectedInterval, p.ExpectedInterval)
	if p.Attributes != nil {
		d.Attributes = json.RawMessage(*p.Attributes)
	}
	if dryRun {
		if _, err := prepareDevice(c, d); err != nil {
			return nil, err
		}
		report.Created++
		return nil, nil
	}
	d, token, err := v.createDevice(ctx, c, d)
	if err != nil {
		return nil, err
	}
	report.Created++
	report.Tokens = append(report.Tokens, ImportedToken{id, token})
	return &d, nil
}

// readHeader returns where each column is.
func readHeader(in *csv.Reader) (map[string]int, error) {
	header, err := in.Read()
	if err != nil {
		if _, ok := errors.AsType[*csv.ParseError](err); ok || errors.Is(err, io.EOF) {
			return nil, devices.Invalid("file", "is no CSV with a header: %s", strings.Join(columns, ","))
		}
		return nil, err
	}
	at := make(map[string]int, len(header))
	for i, name := range header {
		name = strings.TrimSpace(name)
		if _, twice := at[name]; twice || !slices.Contains(columns, name) {
			return nil, devices.Invalid("file", "has a column %q that is unknown or there twice; known are %s", name, strings.Join(columns, ","))
		}
		at[name] = i
	}
	if _, ok := at["id"]; !ok {
		return nil, devices.Invalid("file", "has no column id")
	}
	return at, nil
}

// readRow makes a patch of the columns that are there.
func readRow(row []string, at map[string]int) (DevicePatch, error) {
	var p DevicePatch
	field := func(name string) *string {
		if i, ok := at[name]; ok {
			return &row[i]
		}
		return nil
	}
	p.Label, p.Type = field("label"), field("type")
	if text := field("groups"); text != nil {
		groups := []devices.GroupPath{}
		for part := range strings.SplitSeq(*text, ";") {
			if part = strings.TrimSpace(part); part != "" {
				groups = append(groups, devices.GroupPath(part))
			}
		}
		p.Groups = &groups
	}
	if text := field("state"); text != nil && strings.TrimSpace(*text) != "" {
		state := devices.State(strings.TrimSpace(*text))
		p.State = &state
	}
	if text := field("expectedIntervalMs"); text != nil {
		var ms int64
		if s := strings.TrimSpace(*text); s != "" {
			var err error
			if ms, err = strconv.ParseInt(s, 10, 64); err != nil || ms < 0 || ms > int64(366*24*time.Hour/time.Millisecond) {
				return p, devices.Invalid("expectedIntervalMs", "must be a whole number of milliseconds, at most a year")
			}
		}
		interval := time.Duration(ms) * time.Millisecond
		p.ExpectedInterval = &interval
	}
	if text := field("attributes"); text != nil {
		attributes := []byte(strings.TrimSpace(*text))
		if len(attributes) == 0 {
			attributes = []byte("{}")
		}
		p.Attributes = &attributes
	}
	return p, nil
}

// ExportDevices writes those the caller may see and that match as CSV that ImportDevices takes; the page of the filter is ignored.
func (v *Inventory) ExportDevices(ctx context.Context, c Caller, w io.Writer, f devices.DeviceFilter) error {
	if err := signedIn(c); err != nil {
		return err
	}
	out := csv.NewWriter(w)
	out.Write(columns) // errors stay in out
	f.Page = devices.Page{Limit: devices.MaxPage}
	for {
		page, err := v.Devices(ctx, c, f)
		if err != nil {
			return err
		}
		for _, d := range page.Items {
			groups := make([]string, len(d.Groups))
			for i, g := range d.Groups {
				groups[i] = string(g)
			}
			interval := ""
			if d.ExpectedInterval > 0 {
				interval = strconv.FormatInt(d.ExpectedInterval.Milliseconds(), 10)
			}
			out.Write([]string{string(d.ID), d.Label, d.Type, strings.Join(groups, ";"), string(d.State), interval, string(d.Attributes)})
		}
		out.Flush()
		if err := out.Error(); err != nil {
			return err
		}
		if f.After = page.Next; page.Next == "" {
			return nil
		}
	}
}

// same reports whether all that a person can set is equal.
func same(a, b devices.Device) bool {
	return a.Label == b.Label && a.Type == b.Type && a.State == b.State && a.ExpectedInterval == b.ExpectedInterval &&
		slices.Equal(a.Groups, b.Groups) && bytes.Equal(canonical(a.Attributes), canonical(b.Attributes))
}

// canonical is a JSON object without what has no meaning: spaces, order.
func canonical(raw json.RawMessage) []byte {
	var object map[string]any
	if json.Unmarshal(raw, &object) != nil || len(object) == 0 {
		return nil
	}
	text, err := json.Marshal(object)
	if err != nil {
		return raw
	}
	return text
}

// reason is an error for who made the file.
func reason(err error) string {
	switch {
	case errors.Is(err, devices.ErrForbidden):
		return "you may not manage devices there"
	case errors.Is(err, devices.ErrExists):
		return "the id is taken"
	}
	if field, ok := errors.AsType[*devices.FieldError](err); ok {
		return field.Error()
	}
	return err.Error()
}

// withoutBOM skips the byte order mark that spreadsheets write.
func withoutBOM(r io.Reader) io.Reader {
	in := bufio.NewReader(r)
	if head, _ := in.Peek(3); string(head) == "\ufeff" {
		in.Discard(3)
	}
	return in
}
