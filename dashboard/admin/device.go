package admin

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"millrace/dashboard/auth"
	"millrace/dashboard/pages"
	"millrace/devices"
	"millrace/devices/inventory"
)

func (h *handler) deviceRoutes(r fiber.Router) {
	r.Get("/devices", h.devices)
	r.Post("/devices", h.createDevice)
	r.Get("/devices/new", h.newDevice)
	r.Get("/devices/import", h.importForm)
	r.Post("/devices/import", h.importDevices)
	r.Get("/devices/export.csv", h.exportDevices)
	r.Get("/devices/:id", h.device)
	r.Post("/devices/:id", h.updateDevice)
	r.Get("/devices/:id/now", h.deviceNow)
	r.Get("/devices/:id/state", h.deviceState)
	r.Post("/devices/:id/state", h.setDeviceState)
	r.Get("/devices/:id/delete", h.confirmDeleteDevice)
	r.Post("/devices/:id/delete", h.deleteDevice)
	r.Post("/devices/:id/credentials", h.createCredential)
	r.Get("/devices/:id/credentials/:cid/delete", h.confirmDeleteCredential)
	r.Post("/devices/:id/credentials/:cid/delete", h.deleteCredential)
	r.Get("/devices/:id/series", h.seriesForm)
	r.Post("/devices/:id/series", h.updateSeries)
}

func deviceURL(id devices.ID, more string) string {
	return "/admin/devices/" + url.PathEscape(string(id)) + more
}

// filterOf reads the filter of the list. Who is not admin of the site sees the devices of the groups managed.
func filterOf(c *fiber.Ctx, caller inventory.Caller) (pages.DeviceListFilter, devices.DeviceFilter) {
	shown := pages.DeviceListFilter{Search: asked(c, "q"), State: asked(c, "state"), Type: asked(c, "type"), Group: asked(c, "group"), After: asked(c, "after")}
	f := devices.DeviceFilter{Page: devices.Page{After: shown.After}, State: devices.State(shown.State), Type: shown.Type, Search: shown.Search, Groups: scope(caller)}
	if g := devices.GroupPath(shown.Group); g != devices.Site && caller.Can(devices.Admin, g) {
		f.Groups = []devices.GroupPath{g}
	}
	return shown, f
}

func (h *handler) devices(c *fiber.Ctx) error {
	ctx, caller := c.UserContext(), auth.Caller(c)
	shown, f := filterOf(c, caller)
	list, err := h.Inventory.Devices(ctx, caller, f)
	if err != nil {
		return err
	}
	groups, err := h.groups(c)
	if err != nil {
		return err
	}
	v := pages.AdminDevices{AdminPage: h.page(c, "devices", "Devices"), Filter: shown, Devices: list.Items, Next: list.Next, Groups: groups, MayMake: true}
	for _, d := range list.Items {
		if d.Type != "" && !slices.Contains(v.Types, d.Type) {
			v.Types = append(v.Types, d.Type)
		}
	}
	slices.Sort(v.Types)
	return render(c, fiber.StatusOK, pages.AdminDevicesPage(v))
}

func (h *handler) newDevice(c *fiber.Ctx) error {
	f := pages.DeviceForm{ID: asked(c, "id")}
	if g := asked(c, "group"); g != "" {
		f.Groups = []string{g}
	}
	return h.deviceForm(c, f, nil, fiber.StatusOK)
}

func (h *handler) deviceForm(c *fiber.Ctx, f pages.DeviceForm, e pages.Errors, status int) error {
	groups, err := h.groups(c)
	if err != nil {
		return err
	}
	v := pages.AdminDeviceNew{AdminPage: h.page(c, "devices", "Connect a device"), Form: f, Groups: groups}
	v.Errors = e
	return render(c, status, pages.AdminDeviceNewPage(v))
}

// readDevice reads the fields that new and existing devices share.
func readDevice(c *fiber.Ctx) (pages.DeviceForm, devices.Device, error) {
	f := pages.DeviceForm{ID: value(c, "id"), Label: value(c, "label"), Type: value(c, "type"), Attributes: value(c, "attributes"), Interval: value(c, "expectedIntervalMs")}
	for _, g := range c.Context().PostArgs().PeekMulti("groups") {
		f.Groups = append(f.Groups, string(g))
	}
	d := devices.Device{ID: devices.ID(f.ID), Label: f.Label, Type: f.Type, State: devices.Active, Attributes: []byte("{}")}
	for _, g := range f.Groups {
		d.Groups = append(d.Groups, devices.GroupPath(g))
	}
	if f.Attributes != "" {
		d.Attributes = []byte(f.Attributes)
	}
	every, ok := pages.ParseInterval(f.Interval)
	if !ok {
		return f, d, devices.Invalid("expectedIntervalMs", "must be a time such as 500ms, 10s or 5m")
	}
	d.ExpectedInterval = every
	return f, d, nil
}

func (h *handler) createDevice(c *fiber.Ctx) error {
	f, d, err := readDevice(c)
	if err == nil {
		var token string
		if d, token, err = h.Inventory.CreateDevice(c.UserContext(), auth.Caller(c), d); err == nil {
			return h.showDevice(c, fiber.StatusCreated, d.ID, func(v *pages.AdminDevice) {
				v.Token, v.Note = token, "Device "+string(d.ID)+" was created."
			})
		}
	}
	e, status, ok := faults(err)
	switch {
	case errors.Is(err, devices.ErrExists):
		e = pages.Errors{"id": "A device with this id exists already."}
	case errors.Is(err, devices.ErrForbidden):
		e = pages.Errors{"groups": "Tick a group that you manage: outside of it you may not create devices."}
	case !ok:
		return err
	}
	return h.deviceForm(c, f, e, status)
}

func (h *handler) device(c *fiber.Ctx) error {
	return h.showDevice(c, fiber.StatusOK, devices.ID(param(c, "id")), nil)
}

// showDevice answers with the page of a device; change adds what a form has to say.
func (h *handler) showDevice(c *fiber.Ctx, status int, id devices.ID, change func(*pages.AdminDevice)) error {
	ctx, caller := c.UserContext(), auth.Caller(c)
	d, err := h.Inventory.Device(ctx, caller, id)
	if err != nil {
		return err
	}
	v := pages.AdminDevice{AdminPage: h.page(c, "devices", string(d.ID)), Device: d, Form: pages.FormOfDevice(d), Values: h.Live.DeviceValues(d.ID),
		Endpoints: h.endpoints(c), MayEdit: caller.CanAny(devices.Admin, d.Groups), MayDelete: caller.CanAll(devices.Admin, d.Groups)}
	series, err := h.Inventory.Series(ctx, caller, inventory.SeriesFilter{Device: d.ID, Page: devices.Page{After: asked(c, "series")}})
	if err != nil {
		return err
	}
	v.Series = series.Items
	if series.Next != "" {
		v.MoreSeries = deviceURL(d.ID, "?series="+url.QueryEscape(series.Next)+"#series")
	}
	v.Recorded = h.recordedOf(c, d)
	if v.MayEdit {
		v.Rejects = h.rejects(caller, d.ID, 20)
		if v.Credentials, err = h.Inventory.Credentials(ctx, caller, d.ID); err != nil {
			return err
		}
		if v.Groups, err = h.groups(c); err != nil {
			return err
		}
		v.Groups = withOwn(v.Groups, d.Groups)
	}
	if change != nil {
		change(&v)
	}
	return render(c, status, pages.AdminDevicePage(v))
}

// withOwn adds to the groups one may choose those that the device is in already: leaving the form as it is keeps them.
func withOwn(choice []devices.Group, own []devices.GroupPath) []devices.Group {
	for _, p := range own {
		if !slices.ContainsFunc(choice, func(g devices.Group) bool { return g.Path == p }) {
			choice = append(choice, devices.Group{Path: p})
		}
	}
	slices.SortFunc(choice, func(a, b devices.Group) int { return strings.Compare(string(a.Path), string(b.Path)) })
	return choice
}

func (h *handler) deviceNow(c *fiber.Ctx) error {
	d, err := h.Inventory.Device(c.UserContext(), auth.Caller(c), devices.ID(param(c, "id")))
	if err != nil {
		return err
	}
	v := pages.AdminDevice{Device: d, Values: h.Live.DeviceValues(d.ID)}
	v.Now = now()
	return render(c, fiber.StatusOK, pages.DeviceNow(v))
}

func (h *handler) updateDevice(c *fiber.Ctx) error {
	id := devices.ID(param(c, "id"))
	f, d, err := readDevice(c)
	f.ID = string(id)
	if err == nil {
		attributes := []byte(d.Attributes)
		if d.Groups == nil {
			d.Groups = []devices.GroupPath{}
		}
		_, err = h.Inventory.UpdateDevice(c.UserContext(), auth.Caller(c), id, inventory.DevicePatch{Label: &d.Label, Type: &d.Type,
			Attributes: &attributes, Groups: &d.Groups, ExpectedInterval: &d.ExpectedInterval})
		if err == nil {
			return done(c, deviceURL(id, ""), "Saved.")
		}
	}
	e, status, ok := faults(err)
	if !ok {
		return err
	}
	return h.showDevice(c, status, id, func(v *pages.AdminDevice) { v.Form, v.Errors = f, e })
}

func (h *handler) stateBox(c *fiber.Ctx, id devices.ID, to devices.State) pages.AdminConfirm {
	b := h.box(c, "devices", "Enable "+string(id)+"?", deviceURL(id, "/state?to=active"), deviceURL(id, ""), "Enable")
	q := pages.AdminConfirm{Box: b, Stays: "It may connect and publish again with the credentials it has."}
	if to == devices.Disabled {
		q.Title, q.Action, q.Submit = "Disable "+string(id)+"?", deviceURL(id, "/state?to=disabled"), "Disable"
		q.Lost = []string{"Its open connections end at once.", "It can't connect, and its messages are refused."}
		q.Stays = "Settings, credentials and last values are kept. You can enable it again."
	}
	return q
}

func targetState(c *fiber.Ctx) devices.State {
	if asked(c, "to") == string(devices.Disabled) {
		return devices.Disabled
	}
	return devices.Active
}

func (h *handler) deviceState(c *fiber.Ctx) error {
	id := devices.ID(param(c, "id"))
	if _, err := h.Inventory.Device(c.UserContext(), auth.Caller(c), id); err != nil {
		return err
	}
	return render(c, fiber.StatusOK, pages.AdminConfirmPage(h.stateBox(c, id, targetState(c))))
}

func (h *handler) setDeviceState(c *fiber.Ctx) error {
	id, to := devices.ID(param(c, "id")), targetState(c)
	if _, err := h.Inventory.UpdateDevice(c.UserContext(), auth.Caller(c), id, inventory.DevicePatch{State: &to}); err != nil {
		return confirmAgain(c, h.stateBox(c, id, to), err)
	}
	if to == devices.Disabled {
		return done(c, deviceURL(id, ""), "Disabled: its connections have ended.")
	}
	return done(c, deviceURL(id, ""), "Enabled: it may connect.")
}

// confirmAgain shows a question again with what went wrong.
func confirmAgain(c *fiber.Ctx, q pages.AdminConfirm, err error) error {
	e, status, ok := faults(err)
	if !ok {
		return err
	}
	q.Errors = e
	return render(c, status, pages.AdminConfirmPage(q))
}

// typed compares what was typed with what must be.
func typed(c *fiber.Ctx, q *pages.AdminConfirm) error {
	q.Typed = value(c, "confirm")
	if q.Typed != q.Type {
		return devices.Invalid("confirm", "must be %s exactly", q.Type)
	}
	return nil
}

func (h *handler) deleteDeviceBox(c *fiber.Ctx, id devices.ID) (pages.AdminConfirm, error) {
	ctx, caller := c.UserContext(), auth.Caller(c)
	q := pages.AdminConfirm{Type: string(id), Stays: "This can't be undone. To only keep it out, disable it."}
	if _, err := h.Inventory.Device(ctx, caller, id); err != nil {
		return q, err
	}
	q.Box = h.box(c, "devices", "Delete "+string(id)+"?", deviceURL(id, "/delete"), deviceURL(id, ""), "Delete device")
	q.Danger = true
	series := 0
	if d := h.Catalog.Device(id); d != nil {
		series = len(d.AllSeries())
	}
	q.Lost = []string{"Its settings and attributes.", fmt.Sprintf("%d series with their settings and last values.", series)}
	if h.History != nil {
		if size, err := h.History.SizeOf(ctx, []devices.ID{id}); err == nil && size.Samples > 0 {
			q.Lost = append(q.Lost, "All its history: "+pages.RecordedText(size)+".")
		}
	}
	if creds, err := h.Inventory.Credentials(ctx, caller, id); err == nil {
		q.Lost = append(q.Lost, pages.Count(len(creds), "credential")+"; open connections end at once.")
	}
	return q, nil
}

func (h *handler) confirmDeleteDevice(c *fiber.Ctx) error {
	q, err := h.deleteDeviceBox(c, devices.ID(param(c, "id")))
	if err != nil {
		return err
	}
	return render(c, fiber.StatusOK, pages.AdminConfirmPage(q))
}

func (h *handler) deleteDevice(c *fiber.Ctx) error {
	id := devices.ID(param(c, "id"))
	q, err := h.deleteDeviceBox(c, id)
	if err != nil {
		return err
	}
	if err = typed(c, &q); err == nil {
		err = h.Inventory.DeleteDevice(c.UserContext(), auth.Caller(c), id)
	}
	if err != nil {
		return confirmAgain(c, q, err)
	}
	return done(c, "/admin/devices", "Device "+string(id)+" was deleted.")
}

func (h *handler) createCredential(c *fiber.Ctx) error {
	id := devices.ID(param(c, "id"))
	f := pages.CredentialForm{Fingerprint: value(c, "fingerprint"), Expires: value(c, "expires")}
	expires, err := day("expires", f.Expires)
	if err == nil {
		var token string
		fingerprint := strings.ToLower(strings.ReplaceAll(strings.ReplaceAll(f.Fingerprint, ":", ""), " ", ""))
		_, token, err = h.Inventory.CreateCredential(c.UserContext(), auth.Caller(c), id, inventory.CredentialRequest{Fingerprint: fingerprint, Expires: expires})
		if err == nil && token == "" {
			return done(c, deviceURL(id, ""), "The certificate was added.")
		}
		if err == nil {
			return h.showDevice(c, fiber.StatusCreated, id, func(v *pages.AdminDevice) { v.Token, v.Note = token, "A token was added." })
		}
	}
	e, status, ok := faults(err)
	if !ok {
		return err
	}
	if e[""] != "" {
		e = pages.Errors{"credential": e[""]}
	}
	return h.showDevice(c, status, id, func(v *pages.AdminDevice) { v.CredForm, v.Errors = f, e })
}

func (h *handler) credentialBox(c *fiber.Ctx) (pages.AdminConfirm, error) {
	id, cid := devices.ID(param(c, "id")), param(c, "cid")
	creds, err := h.Inventory.Credentials(c.UserContext(), auth.Caller(c), id)
	if err != nil {
		return pages.AdminConfirm{}, err
	}
	i := slices.IndexFunc(creds, func(cr devices.Credential) bool { return cr.ID == cid })
	if i < 0 {
		return pages.AdminConfirm{}, fmt.Errorf("credential %s: %w", cid, devices.ErrNotFound)
	}
	b := h.box(c, "devices", "Revoke the credential …"+creds[i].Hint+"?", deviceURL(id, "/credentials/"+url.PathEscape(cid)+"/delete"), deviceURL(id, ""), "Revoke")
	b.Danger = true
	q := pages.AdminConfirm{Box: b, Lost: []string{"Connections that signed in with it end at once."}, Stays: "Other credentials of " + string(id) + " go on working."}
	if len(creds) == 1 {
		q.Lost = append(q.Lost, "It is the only one: the device can't connect until you add another.")
		q.Stays = ""
	}
	return q, nil
}

func (h *handler) confirmDeleteCredential(c *fiber.Ctx) error {
	q, err := h.credentialBox(c)
	if err != nil {
		return err
	}
	return render(c, fiber.StatusOK, pages.AdminConfirmPage(q))
}

func (h *handler) deleteCredential(c *fiber.Ctx) error {
	q, err := h.credentialBox(c)
	if err != nil {
		return err
	}
	id := devices.ID(param(c, "id"))
	if err := h.Inventory.DeleteCredential(c.UserContext(), auth.Caller(c), id, param(c, "cid")); err != nil {
		return confirmAgain(c, q, err)
	}
	return done(c, deviceURL(id, ""), "The credential was revoked.")
}

func (h *handler) seriesBox(c *fiber.Ctx) pages.AdminSeries {
	id, metric := devices.ID(param(c, "id")), asked(c, "metric")
	b := h.box(c, "devices", metric+" of "+string(id), deviceURL(id, "/series?metric="+url.QueryEscape(metric)), deviceURL(id, ""), "Save")
	return pages.AdminSeries{Box: b, Metric: metric}
}

func (h *handler) oneSeries(c *fiber.Ctx) (devices.Series, error) {
	id, metric := devices.ID(param(c, "id")), asked(c, "metric")
	list, err := h.Inventory.Series(c.UserContext(), auth.Caller(c), inventory.SeriesFilter{Device: id, Metric: metric, Page: devices.Page{Limit: 1}})
	if err != nil {
		return devices.Series{}, err
	}
	if metric == "" || len(list.Items) == 0 {
		return devices.Series{}, fmt.Errorf("series %s/%s: %w", id, metric, devices.ErrNotFound)
	}
	return list.Items[0], nil
}

func (h *handler) seriesForm(c *fiber.Ctx) error {
	s, err := h.oneSeries(c)
	if err != nil {
		return err
	}
	v := h.seriesBox(c)
	v.Label, v.Unit, v.Low, v.High, v.Interval = s.Label, s.Unit, limit(s.Low), limit(s.High), pages.Interval(s.ExpectedInterval)
	return render(c, fiber.StatusOK, pages.AdminSeriesPage(v))
}

func limit(v *float64) string {
	if v == nil {
		return ""
	}
	return strconv.FormatFloat(*v, 'f', -1, 64)
}

func readLimit(field, s string) (*float64, error) {
	if s == "" {
		return nil, nil
	}
	f, err := strconv.ParseFloat(strings.Replace(s, ",", ".", 1), 64)
	if err != nil || !devices.Finite(f) {
		return nil, devices.Invalid(field, "must be a number")
	}
	return &f, nil
}

func (h *handler) updateSeries(c *fiber.Ctx) error {
	id := devices.ID(param(c, "id"))
	old, err := h.oneSeries(c)
	if err != nil {
		return err
	}
	v := h.seriesBox(c)
	v.Label, v.Unit, v.Low, v.High, v.Interval = value(c, "label"), value(c, "unit"), value(c, "low"), value(c, "high"), value(c, "expectedIntervalMs")
	low, err := readLimit("low", v.Low)
	var high *float64
	if err == nil {
		high, err = readLimit("high", v.High)
	}
	var every time.Duration
	if err == nil {
		var ok bool
		if every, ok = pages.ParseInterval(v.Interval); !ok {
			err = devices.Invalid("expectedIntervalMs", "must be a time such as 500ms, 10s or 5m")
		}
	}
	if err == nil {
		// Only what was changed is set, so that defaults of the metric stay defaults.
		var s inventory.Settings
		if v.Label != old.Label {
			s.Label = &v.Label
		}
		if v.Unit != old.Unit {
			s.Unit = &v.Unit
		}
		if v.Low != limit(old.Low) {
			s.Low = &low
		}
		if v.High != limit(old.High) {
			s.High = &high
		}
		if every != old.ExpectedInterval {
			s.ExpectedInterval = &every
		}
		if _, err = h.Inventory.UpdateSeries(c.UserContext(), auth.Caller(c), id, old.Metric, s); err == nil {
			return done(c, deviceURL(id, ""), "Saved "+old.Metric+".")
		}
	}
	e, status, ok := faults(err)
	if !ok {
		return err
	}
	v.Errors = e
	return render(c, status, pages.AdminSeriesPage(v))
}

func (h *handler) importForm(c *fiber.Ctx) error {
	return render(c, fiber.StatusOK, pages.AdminImportPage(pages.AdminImport{AdminPage: h.page(c, "devices", "Import devices")}))
}

// maxImport is the largest CSV taken, in bytes.
const maxImport = 3 << 20

func (h *handler) importDevices(c *fiber.Ctx) error {
	v := pages.AdminImport{AdminPage: h.page(c, "devices", "Import devices"), CSV: value(c, "csv")}
	dry := value(c, "step") != "import"
	err := func() error {
		if file, err := c.FormFile("file"); err == nil && file.Size > 0 {
			f, err := file.Open()
			if err != nil {
				return err
			}
			defer f.Close()
			b, err := io.ReadAll(io.LimitReader(f, maxImport+1))
			if err != nil {
				return err
			}
			v.CSV = string(b)
		}
		switch {
		case v.CSV == "":
			return devices.Invalid("csv", "is empty: choose a file or paste rows")
		case len(v.CSV) > maxImport:
			v.CSV = ""
			return devices.Invalid("csv", "is larger than 3 MB: import it in parts")
		}
		r, err := h.Inventory.ImportDevices(c.UserContext(), auth.Caller(c), strings.NewReader(v.CSV), dry)
		v.Report = pages.ImportReport{Created: r.Created, Updated: r.Updated, Unchanged: r.Unchanged}
		for _, t := range r.Tokens {
			v.Report.Tokens = append(v.Report.Tokens, pages.ImportToken{Device: t.Device, Token: t.Token})
		}
		for _, e := range r.Errors {
			v.Report.Errors = append(v.Report.Errors, pages.ImportError{Line: e.Line, Reason: e.Reason})
		}
		return err
	}()
	status := fiber.StatusOK
	if err != nil {
		e, s, ok := faults(err, "", "csv", "header", "csv", "body", "csv")
		if !ok {
			return err
		}
		if e["csv"] == "" {
			for _, text := range e {
				e = pages.Errors{"csv": text}
			}
		}
		v.Errors, status = e, s
	} else {
		v.Preview, v.Done = dry || len(v.Report.Errors) > 0, !dry && len(v.Report.Errors) == 0
	}
	return render(c, status, pages.AdminImportPage(v))
}

func (h *handler) exportDevices(c *fiber.Ctx) error {
	caller := auth.Caller(c)
	_, f := filterOf(c, caller)
	f.After = ""
	c.Set(fiber.HeaderContentType, "text/csv; charset=utf-8")
	c.Set(fiber.HeaderContentDisposition, `attachment; filename="devices.csv"`)
	return h.Inventory.ExportDevices(c.UserContext(), caller, c.Response().BodyWriter(), f)
}
