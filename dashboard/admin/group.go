package admin

import (
	"errors"
	"fmt"
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

func (h *handler) groupRoutes(r fiber.Router) {
	r.Get("/groups", h.groupTree)
	r.Post("/groups", h.createGroup)
	r.Get("/groups/new", h.newGroup)
	r.Get("/groups/view", h.group)
	r.Get("/groups/edit", h.editGroup)
	r.Post("/groups/edit", h.updateGroup)
	r.Get("/groups/delete", h.confirmDeleteGroup)
	r.Post("/groups/delete", h.deleteGroup)
	r.Post("/groups/members", h.addMember)
	r.Post("/groups/members/remove", h.removeMember)
}

func groupURL(page string, p devices.GroupPath) string {
	return "/admin/groups/" + page + "?path=" + url.QueryEscape(string(p))
}

func (h *handler) groupTree(c *fiber.Ctx) error {
	groups, err := h.groups(c)
	if err != nil {
		return err
	}
	v := pages.AdminGroups{AdminPage: h.page(c, "groups", "Groups"), Count: len(groups), MayMake: auth.Caller(c).SiteAdmin(), Tree: tree(groups)}
	return render(c, fiber.StatusOK, pages.AdminGroupsPage(v))
}

// tree puts groups, sorted by path, below each other. Groups above them that are not among them show as mere names.
func tree(groups []devices.Group) []*pages.GroupNode {
	root := &pages.GroupNode{}
	nodes := map[devices.GroupPath]*pages.GroupNode{devices.Site: root}
	var at func(p devices.GroupPath) *pages.GroupNode
	at = func(p devices.GroupPath) *pages.GroupNode {
		if n := nodes[p]; n != nil {
			return n
		}
		n := &pages.GroupNode{Group: devices.Group{Path: p}, Missing: true}
		nodes[p] = n
		up := at(p.Parent())
		up.Below = append(up.Below, n)
		return n
	}
	for _, g := range groups {
		n := at(g.Path)
		n.Group, n.Missing, n.MayEdit = g, false, true
	}
	return root.Below
}

func (h *handler) groupBox(c *fiber.Ctx, isNew bool, p devices.GroupPath) pages.AdminGroupForm {
	if isNew {
		return pages.AdminGroupForm{Box: h.box(c, "groups", "New group", "/admin/groups", "/admin/groups", "Create group"), New: true}
	}
	return pages.AdminGroupForm{Box: h.box(c, "groups", "Edit "+string(p), groupURL("edit", p), groupURL("view", p), "Save")}
}

func (h *handler) newGroup(c *fiber.Ctx) error {
	v := h.groupBox(c, true, "")
	v.Retention = h.retentionForm(devices.Site, nil)
	if below := asked(c, "below"); below != "" {
		v.Path = below + "/"
		v.Retention.Above = "as above: " + pages.RetentionOf(h.retention(), devices.GroupPath(below))
	}
	return render(c, fiber.StatusOK, pages.AdminGroupFormPage(v))
}

func readTick(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > 1<<30 {
		return 0, devices.Invalid("tickMs", "must be a whole number of milliseconds")
	}
	return time.Duration(n) * time.Millisecond, nil
}

// readGroup reads the fields that new and existing groups share.
func readGroup(c *fiber.Ctx, v *pages.AdminGroupForm) (tick time.Duration, days *int, err error) {
	v.Label, v.Tick = value(c, "label"), value(c, "tickMs")
	v.Retention.Keep, v.Retention.Days = value(c, "keep"), value(c, "days")
	if tick, err = readTick(v.Tick); err == nil {
		days, err = readRetention(v.Retention)
	}
	return tick, days, err
}

func (h *handler) createGroup(c *fiber.Ctx) error {
	v := h.groupBox(c, true, "")
	v.Path = strings.TrimSuffix(value(c, "path"), "/")
	v.Retention = h.retentionForm(devices.Site, nil)
	tick, days, err := readGroup(c, &v)
	if err == nil {
		var g devices.Group
		if g, err = h.Inventory.CreateGroup(c.UserContext(), auth.Caller(c), devices.Group{Path: devices.GroupPath(v.Path), Label: v.Label, Tick: tick, Retention: days}); err == nil {
			return done(c, "/admin/groups", "Group "+string(g.Path)+" was created.")
		}
	}
	e, status, ok := faults(err)
	switch {
	case errors.Is(err, devices.ErrExists):
		e = pages.Errors{"path": "This group exists already."}
	case errors.Is(err, devices.ErrForbidden), errors.Is(err, devices.ErrNotFound):
		e, status = pages.Errors{"path": "You can make groups only below those that you manage."}, fiber.StatusUnprocessableEntity
	case !ok:
		return err
	}
	v.Errors = e
	return render(c, status, pages.AdminGroupFormPage(v))
}

func (h *handler) oneGroup(c *fiber.Ctx) (devices.Group, error) {
	return h.Inventory.Group(c.UserContext(), auth.Caller(c), devices.GroupPath(asked(c, "path")))
}

func (h *handler) editGroup(c *fiber.Ctx) error {
	g, err := h.oneGroup(c)
	if err != nil {
		return err
	}
	v := h.groupBox(c, false, g.Path)
	v.Label, v.Retention = g.Label, h.retentionForm(g.Path, g.Retention)
	if g.Tick != 0 {
		v.Tick = strconv.FormatInt(g.Tick.Milliseconds(), 10)
	}
	return render(c, fiber.StatusOK, pages.AdminGroupFormPage(v))
}

func (h *handler) updateGroup(c *fiber.Ctx) error {
	p := devices.GroupPath(asked(c, "path"))
	v := h.groupBox(c, false, p)
	v.Retention = h.retentionForm(p, nil)
	tick, days, err := readGroup(c, &v)
	if err == nil {
		v.Loss, err = h.loss(c, p, days)
	}
	if v.Loss != nil {
		v.Loss.Missed, v.Submit, v.Danger = asked(c, "asked") != "", "Save and delete", true
		v.Action += "&asked=1"
		return render(c, fiber.StatusUnprocessableEntity, pages.AdminGroupFormPage(v))
	}
	if err == nil {
		if _, err = h.Inventory.UpdateGroup(c.UserContext(), auth.Caller(c), p, inventory.GroupPatch{Label: &v.Label, Tick: &tick, Retention: &days}); err == nil {
			return done(c, groupURL("view", p), "Saved.")
		}
	}
	e, status, ok := faults(err)
	if !ok {
		return err
	}
	v.Errors = e
	return render(c, status, pages.AdminGroupFormPage(v))
}

func (h *handler) deleteGroupBox(c *fiber.Ctx) (pages.AdminConfirm, error) {
	g, err := h.oneGroup(c)
	if err != nil {
		return pages.AdminConfirm{}, err
	}
	ctx, caller := c.UserContext(), auth.Caller(c)
	groups, err := h.Inventory.Groups(ctx, caller)
	if err != nil {
		return pages.AdminConfirm{}, err
	}
	n := 0
	for _, o := range groups {
		if g.Path.Contains(o.Path) {
			n++
		}
	}
	b := h.box(c, "groups", "Delete "+string(g.Path)+"?", groupURL("delete", g.Path), groupURL("view", g.Path), "Delete group")
	b.Danger = true
	q := pages.AdminConfirm{Box: b, Type: string(g.Path)}
	if g.Devices > 0 {
		q.Stays = fmt.Sprintf("%s stay, but are in no group of this branch any more.", pages.Count(g.Devices, "device"))
	}
	q.Lost = []string{pages.Count(n, "group") + ": this one and all below, with their live pages."}
	if bindings, err := h.Inventory.Bindings(ctx, caller, g.Path, "", ""); err == nil {
		q.Lost = append(q.Lost, pages.Count(len(bindings), "role")+" that people and programs have there; open views end at once.")
	}
	var only []devices.ID
	for _, d := range h.Catalog.DevicesIn(g.Path) {
		if !slices.ContainsFunc(d.Info().Groups, func(p devices.GroupPath) bool { return !g.Path.Contains(p) }) {
			only = append(only, d.ID())
		}
	}
	if len(only) > 0 {
		label := "Also delete the device that is in no other group"
		if len(only) > 1 {
			label = fmt.Sprintf("Also delete the %d devices that are in no other group", len(only))
		}
		if h.History != nil {
			if size, err := h.History.SizeOf(ctx, only); err == nil && size.Samples > 0 {
				label += ", with " + pages.RecordedText(size)
			}
		}
		q.Option = &pages.Option{Name: "devices", Label: label, On: value(c, "devices") != ""}
	}
	if h.History != nil {
		if size, err := h.History.LostByDeletion(ctx, g.Path); err == nil && size.Samples > 0 {
			q.Lost = append(q.Lost, "How long samples stay there: outside of it, "+pages.RecordedText(size)+" are too old and are deleted within the hour.")
		}
	}
	return q, nil
}

func (h *handler) confirmDeleteGroup(c *fiber.Ctx) error {
	q, err := h.deleteGroupBox(c)
	if err != nil {
		return err
	}
	return render(c, fiber.StatusOK, pages.AdminConfirmPage(q))
}

func (h *handler) deleteGroup(c *fiber.Ctx) error {
	q, err := h.deleteGroupBox(c)
	if err != nil {
		return err
	}
	p := devices.GroupPath(asked(c, "path"))
	if err = typed(c, &q); err == nil {
		err = h.Inventory.DeleteGroup(c.UserContext(), auth.Caller(c), p, q.Option != nil && q.Option.On)
	}
	if err != nil {
		return confirmAgain(c, q, err)
	}
	return done(c, "/admin/groups", "Group "+string(p)+" was deleted.")
}

func (h *handler) group(c *fiber.Ctx) error { return h.showGroup(c, fiber.StatusOK, "", nil) }

func (h *handler) showGroup(c *fiber.Ctx, status int, device string, e pages.Errors) error {
	g, err := h.oneGroup(c)
	if err != nil {
		return err
	}
	caller := auth.Caller(c)
	v := pages.AdminGroup{AdminPage: h.page(c, "groups", string(g.Path)), Group: g, After: asked(c, "after"), MayEdit: caller.Can(devices.Admin, g.Path), Device: device}
	list, err := h.Inventory.Devices(c.UserContext(), caller, devices.DeviceFilter{Groups: []devices.GroupPath{g.Path}, Page: devices.Page{After: v.After}})
	if err != nil {
		return err
	}
	v.Members, v.Next, v.Errors, v.Recorded = list.Items, list.Next, e, h.recordedIn(c, g.Path)
	return render(c, status, pages.AdminGroupPage(v))
}

func (h *handler) addMember(c *fiber.Ctx) error {
	return h.changeMember(c, func(in []devices.GroupPath, p devices.GroupPath) []devices.GroupPath {
		if slices.Contains(in, p) {
			return in
		}
		return append(slices.Clone(in), p)
	}, "is in this group now.")
}

func (h *handler) removeMember(c *fiber.Ctx) error {
	return h.changeMember(c, func(in []devices.GroupPath, p devices.GroupPath) []devices.GroupPath {
		return slices.DeleteFunc(slices.Clone(in), func(o devices.GroupPath) bool { return o == p })
	}, "was taken out of this group.")
}

func (h *handler) changeMember(c *fiber.Ctx, change func([]devices.GroupPath, devices.GroupPath) []devices.GroupPath, note string) error {
	ctx, caller, p := c.UserContext(), auth.Caller(c), devices.GroupPath(asked(c, "path"))
	id := value(c, "device")
	d, err := h.Inventory.Device(ctx, caller, devices.ID(id))
	if err == nil {
		in := change(d.Groups, p)
		if in == nil {
			in = []devices.GroupPath{}
		}
		_, err = h.Inventory.UpdateDevice(ctx, caller, d.ID, inventory.DevicePatch{Groups: &in})
	}
	switch {
	case err == nil:
		return done(c, groupURL("view", p), id+" "+note)
	case errors.Is(err, devices.ErrNotFound):
		return h.showGroup(c, fiber.StatusUnprocessableEntity, id, pages.Errors{"device": "There is no such device that you may see."})
	}
	e, status, ok := faults(err, "id", "device", "groups", "device")
	if !ok {
		return err
	}
	if e[""] != "" {
		e = pages.Errors{"device": e[""]}
	}
	return h.showGroup(c, status, id, e)
}
