package operator

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/utils"

	"millrace/dashboard/auth"
	"millrace/dashboard/pages"
	"millrace/devices"
	"millrace/devices/catalog"
)

func (h *handler) home(c *fiber.Ctx) error {
	caller := auth.Caller(c)
	groups, err := h.Inventory.Groups(c.UserContext(), caller)
	if err != nil {
		return err
	}
	d := pages.HomeData{Admin: caller.CanSomewhere(devices.Admin), HTTP: base(c), MQTT: h.mqtt(c), Now: h.Now()}
	for _, g := range groups {
		s := h.Engine.GroupStats(g.Path)
		row := pages.GroupRow{Group: g, Series: s.Series, Stale: s.Stale, Rate: s.Rate}
		if s.LastSample > 0 {
			row.Last = time.UnixMilli(s.LastSample)
		}
		d.Groups = append(d.Groups, row)
	}
	p := Page(c, "Live")
	p.Script = "home.js"
	return Render(c, fiber.StatusOK, pages.Home(p, d))
}

func (h *handler) group(c *fiber.Ctx) error {
	path, err := pathOf(c.Params("*"))
	if err != nil {
		return err
	}
	caller := auth.Caller(c)
	g, err := h.Inventory.Group(c.UserContext(), caller, path)
	if err != nil {
		return err
	}
	all, err := h.Inventory.Groups(c.UserContext(), caller)
	if err != nil {
		return err
	}
	d := pages.GroupData{Group: g, Admin: caller.Can(devices.Admin, path), HTTP: base(c), MQTT: h.mqtt(c)}
	for _, other := range all {
		if other.Path != path && other.Path.Parent() == path {
			d.Below = append(d.Below, other)
		}
	}
	members := h.Catalog.DevicesIn(path)
	for _, m := range members {
		d.Series += len(m.AllSeries())
	}
	d.Values = h.values(members)
	p := Page(c, string(path))
	p.Trail = pages.GroupTrail(path)
	p.Script, p.Live, p.Wide = "group.js", true, true
	return Render(c, fiber.StatusOK, pages.Group(p, d))
}

func (h *handler) device(c *fiber.Ctx) error {
	id, err := url.PathUnescape(c.Params("id"))
	if err != nil {
		return devices.ErrNotFound
	}
	caller := auth.Caller(c)
	device, err := h.Inventory.Device(c.UserContext(), caller, devices.ID(utils.CopyString(id)))
	if err != nil {
		return err
	}
	d := pages.DeviceData{Device: device, Admin: caller.CanAny(devices.Admin, device.Groups), HTTP: base(c), MQTT: h.mqtt(c), Now: h.Now()}
	for _, g := range device.Groups {
		if caller.Can(devices.Viewer, g) {
			d.Groups = append(d.Groups, g)
		}
	}
	p := Page(c, string(device.ID))
	p.Trail = pages.GroupTrail(devices.Site)
	if len(d.Groups) > 0 {
		d.Live = d.Groups[0]
		p.Trail = pages.GroupTrail(d.Live)
		p.Trail[len(p.Trail)-1].Href = pages.GroupURL(d.Live)
		p.Script, p.Live = "device.js", true
	}
	p.Trail = append(p.Trail, pages.Crumb{Label: string(device.ID)})
	p.Wide = true
	if m := h.Catalog.Device(device.ID); m != nil {
		d.Series = len(m.AllSeries())
		d.Values = h.values([]*catalog.Device{m})
	}
	return Render(c, fiber.StatusOK, pages.Device(p, d))
}

// values are the first rows of the table of values, in the order the browser will give them.
func (h *handler) values(members []*catalog.Device) []pages.Value {
	slices.SortFunc(members, func(a, b *catalog.Device) int { return compareNames(string(a.ID()), string(b.ID())) })
	var ids []devices.SeriesID
	var out []pages.Value
	for _, m := range members {
		start := len(ids)
		var series []devices.Series
		for _, id := range m.AllSeries() {
			if s, _, ok := h.Catalog.Series(id); ok {
				series = append(series, s)
			}
		}
		slices.SortFunc(series, func(a, b devices.Series) int { return compareNames(a.Metric, b.Metric) })
		for _, s := range series[:min(len(series), firstRows-start)] {
			ids = append(ids, s.ID)
			out = append(out, pages.Value{Device: s.Device, Metric: s.Metric, Unit: s.Unit})
		}
		if len(ids) >= firstRows {
			break
		}
	}
	now := h.Now()
	for i, v := range h.Engine.LastValues(ids) {
		if v.OK {
			out[i].Text = pages.ValueText(v.Sample)
			out[i].Quality = v.Quality
			out[i].Age = pages.Ago(time.UnixMilli(v.At), now)
			if v.Quality == devices.Stale {
				out[i].Age += " old"
			}
		}
	}
	return out
}

// pathOf reads a group's path from the address, with slashes or %2F.
func pathOf(param string) (devices.GroupPath, error) {
	s, err := url.PathUnescape(param)
	if err != nil {
		return "", devices.ErrNotFound
	}
	p := devices.GroupPath(strings.Clone(strings.Trim(s, "/")))
	if p.Validate() != nil {
		return "", devices.ErrNotFound
	}
	return p, nil
}

// compareNames orders names as people do: press-2 before press-10, letter case only as a last resort.
func compareNames(a, b string) int {
	x, y := strings.ToLower(a), strings.ToLower(b)
	for len(x) > 0 && len(y) > 0 {
		m, n := digits(x), digits(y)
		if m > 0 && n > 0 {
			p, q := strings.TrimLeft(x[:m], "0"), strings.TrimLeft(y[:n], "0")
			if len(p) != len(q) {
				return len(p) - len(q)
			}
			if c := strings.Compare(p, q); c != 0 {
				return c
			}
			x, y = x[m:], y[n:]
			continue
		}
		if x[0] != y[0] {
			return int(x[0]) - int(y[0])
		}
		x, y = x[1:], y[1:]
	}
	if len(x) != len(y) {
		return len(x) - len(y)
	}
	return strings.Compare(a, b)
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}
