package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"github.com/gofiber/fiber/v2"

	"millrace/dashboard/auth"
	"millrace/devices"
	"millrace/devices/inventory"
)

// device is a Device over HTTP.
type device struct {
	devices.Device
	ExpectedIntervalMs int64  `json:"expectedIntervalMs"`
	Token              string `json:"token,omitempty"` // of a new device, this once
}

func deviceView(d devices.Device) device {
	if d.Attributes == nil {
		d.Attributes = json.RawMessage("{}")
	}
	d.Groups = notNil(d.Groups)
	return device{Device: d, ExpectedIntervalMs: millis(d.ExpectedInterval)}
}

func (a *API) deviceFilter(c *fiber.Ctx) (devices.DeviceFilter, error) {
	p, err := page(c)
	if err != nil {
		return devices.DeviceFilter{}, err
	}
	f := devices.DeviceFilter{Page: p, State: devices.State(c.Query("state")), Type: c.Query("type"), Search: c.Query("q")}
	if g := c.Query("group"); g != "" {
		f.Groups = []devices.GroupPath{devices.GroupPath(g)}
	}
	return f, nil
}

func (a *API) listDevices(c *fiber.Ctx) error {
	f, err := a.deviceFilter(c)
	if err != nil {
		return err
	}
	l, err := a.d.Inventory.Devices(c.UserContext(), auth.Caller(c), f)
	return answer(c, listOf(l, deviceView), err)
}

func (a *API) createDevice(c *fiber.Ctx) error {
	var r struct {
		ID                 devices.ID          `json:"id"`
		Label              string              `json:"label"`
		Type               string              `json:"type"`
		Attributes         json.RawMessage     `json:"attributes"`
		State              devices.State       `json:"state"`
		Groups             []devices.GroupPath `json:"groups"`
		ExpectedIntervalMs *int64              `json:"expectedIntervalMs"`
	}
	if err := decode(c, &r); err != nil {
		return err
	}
	d := devices.Device{ID: r.ID, Label: r.Label, Type: r.Type, Attributes: r.Attributes, State: r.State, Groups: r.Groups}
	if d.State == "" {
		d.State = devices.Active
	}
	if i := duration(r.ExpectedIntervalMs); i != nil {
		d.ExpectedInterval = *i
	}
	d, token, err := a.d.Inventory.CreateDevice(c.UserContext(), auth.Caller(c), d)
	if err != nil {
		return err
	}
	v := deviceView(d)
	v.Token = token
	return created(c, "/api/v1/devices/"+url.PathEscape(string(d.ID)), v)
}

func (a *API) getDevice(c *fiber.Ctx) error {
	d, err := a.d.Inventory.Device(c.UserContext(), auth.Caller(c), devices.ID(c.Params("id")))
	return answer(c, deviceView(d), err)
}

func (a *API) patchDevice(c *fiber.Ctx) error {
	var r struct {
		Label              *string              `json:"label"`
		Type               *string              `json:"type"`
		Attributes         *json.RawMessage     `json:"attributes"`
		State              *devices.State       `json:"state"`
		Groups             *[]devices.GroupPath `json:"groups"`
		ExpectedIntervalMs *int64               `json:"expectedIntervalMs"`
	}
	if err := decode(c, &r); err != nil {
		return err
	}
	p := inventory.DevicePatch{Label: r.Label, Type: r.Type, State: r.State, Groups: r.Groups, ExpectedInterval: duration(r.ExpectedIntervalMs)}
	if r.Attributes != nil {
		raw := []byte(*r.Attributes)
		p.Attributes = &raw
	}
	d, err := a.d.Inventory.UpdateDevice(c.UserContext(), auth.Caller(c), devices.ID(c.Params("id")), p)
	return answer(c, deviceView(d), err)
}

func (a *API) deleteDevice(c *fiber.Ctx) error {
	return none(c, a.d.Inventory.DeleteDevice(c.UserContext(), auth.Caller(c), devices.ID(c.Params("id"))))
}

func (a *API) exportDevices(c *fiber.Ctx) error {
	f, err := a.deviceFilter(c)
	if err != nil {
		return err
	}
	var b bytes.Buffer // an error half-way must not look like the end of the list
	if err := a.d.Inventory.ExportDevices(c.UserContext(), auth.Caller(c), &b, f); err != nil {
		return err
	}
	c.Set(fiber.HeaderContentType, "text/csv; charset=utf-8")
	c.Set(fiber.HeaderContentDisposition, `attachment; filename="devices.csv"`)
	return c.Send(b.Bytes())
}

// importReport is an ImportReport over HTTP.
type importReport struct {
	Created   int                       `json:"created"`
	Updated   int                       `json:"updated"`
	Unchanged int                       `json:"unchanged"`
	DryRun    bool                      `json:"dryRun"`
	Tokens    []inventory.ImportedToken `json:"tokens"`
	Errors    []inventory.ImportError   `json:"errors"`
}

func (a *API) importDevices(c *fiber.Ctx) error {
	dry, err := flag(c, "dryRun")
	if err != nil {
		return err
	}
	r, err := a.d.Inventory.ImportDevices(c.UserContext(), auth.Caller(c), bytes.NewReader(c.Body()), dry)
	if err != nil {
		return err
	}
	if len(r.Errors) > 0 {
		c.Status(http.StatusUnprocessableEntity)
	}
	return c.JSON(importReport{r.Created, r.Updated, r.Unchanged, dry, notNil(r.Tokens), notNil(r.Errors)})
}

func (a *API) listCredentials(c *fiber.Ctx) error {
	l, err := a.d.Inventory.Credentials(c.UserContext(), auth.Caller(c), devices.ID(c.Params("id")))
	return answer(c, list[devices.Credential]{Items: notNil(l)}, err)
}

// credential is a Credential over HTTP.
type credential struct {
	devices.Credential
	Token string `json:"token,omitempty"` // of a new one that is no certificate's, this once
}

func (a *API) createCredential(c *fiber.Ctx) error {
	var r struct {
		Fingerprint string     `json:"fingerprint"`
		Expires     *time.Time `json:"expires"`
	}
	if len(c.Body()) > 0 {
		if err := decode(c, &r); err != nil {
			return err
		}
	}
	id := devices.ID(c.Params("id"))
	cr, token, err := a.d.Inventory.CreateCredential(c.UserContext(), auth.Caller(c), id, inventory.CredentialRequest{Fingerprint: r.Fingerprint, Expires: r.Expires})
	if err != nil {
		return err
	}
	return created(c, "/api/v1/devices/"+url.PathEscape(string(id))+"/credentials/"+url.PathEscape(cr.ID), credential{cr, token})
}

func (a *API) deleteCredential(c *fiber.Ctx) error {
	return none(c, a.d.Inventory.DeleteCredential(c.UserContext(), auth.Caller(c), devices.ID(c.Params("id")), c.Params("credential")))
}

// series is a Series over HTTP.
type series struct {
	devices.Series
	Kind               string `json:"kind"`
	ExpectedIntervalMs int64  `json:"expectedIntervalMs"`
}

func seriesView(s devices.Series) series {
	return series{Series: s, Kind: s.Kind.String(), ExpectedIntervalMs: millis(s.ExpectedInterval)}
}

func (a *API) listSeries(c *fiber.Ctx) error {
	p, err := page(c)
	if err != nil {
		return err
	}
	l, err := a.d.Inventory.Series(c.UserContext(), auth.Caller(c), inventory.SeriesFilter{
		Page: p, Group: devices.GroupPath(c.Query("group")), Device: devices.ID(c.Query("device")), Metric: c.Query("metric"), Search: c.Query("q"),
	})
	return answer(c, listOf(l, seriesView), err)
}

// settings are those of a metric or a series over HTTP.
type settings struct {
	Label              *string `json:"label"`
	Unit               *string `json:"unit"`
	Low                limit   `json:"low"`
	High               limit   `json:"high"`
	ExpectedIntervalMs *int64  `json:"expectedIntervalMs"`
}

func (s settings) settings() inventory.Settings {
	return inventory.Settings{Label: s.Label, Unit: s.Unit, Low: s.Low.pointer(), High: s.High.pointer(), ExpectedInterval: duration(s.ExpectedIntervalMs)}
}

func (a *API) patchSeries(c *fiber.Ctx) error {
	var r settings
	if err := decode(c, &r); err != nil {
		return err
	}
	s, err := a.d.Inventory.UpdateSeries(c.UserContext(), auth.Caller(c), devices.ID(c.Params("id")), c.Params("metric"), r.settings())
	return answer(c, seriesView(s), err)
}

func (a *API) listMetrics(c *fiber.Ctx) error {
	l, err := a.d.Inventory.Metrics(c.UserContext(), auth.Caller(c))
	return answer(c, list[devices.Metric]{Items: notNil(l)}, err)
}

func (a *API) patchMetric(c *fiber.Ctx) error {
	var r settings
	if err := decode(c, &r); err != nil {
		return err
	}
	if r.ExpectedIntervalMs != nil {
		return devices.Invalid("expectedIntervalMs", "is set per device or series")
	}
	m, err := a.d.Inventory.UpdateMetric(c.UserContext(), auth.Caller(c), c.Params("metric"), r.settings())
	return answer(c, m, err)
}
