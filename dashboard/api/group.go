package api

import (
	"github.com/gofiber/fiber/v2"

	"millrace/dashboard/auth"
	"millrace/devices"
	"millrace/devices/inventory"
)

// group is a Group over HTTP.
type group struct {
	devices.Group
	TickMs int64       `json:"tickMs"` // 0: the default
	Stats  *GroupStats `json:"stats,omitempty"`
}

func groupView(g devices.Group) group { return group{Group: g, TickMs: millis(g.Tick)} }

func (a *API) withStats(g devices.Group) group {
	v := groupView(g)
	v.Stats = &GroupStats{}
	if a.d.Stats != nil {
		*v.Stats = a.d.Stats(g.Path)
	}
	return v
}

// path is the group in the address, with slashes or %2F.
func path(c *fiber.Ctx) (devices.GroupPath, error) {
	p := devices.GroupPath(c.Params("+"))
	return p, p.Validate()
}

func (a *API) listGroups(c *fiber.Ctx) error {
	stats, err := flag(c, "stats")
	if err != nil {
		return err
	}
	view := groupView
	if stats {
		view = a.withStats
	}
	gs, err := a.d.Inventory.Groups(c.UserContext(), auth.Caller(c))
	return answer(c, listOf(devices.List[devices.Group]{Items: gs}, view), err)
}

func (a *API) createGroup(c *fiber.Ctx) error {
	var r struct {
		Path      devices.GroupPath `json:"path"`
		Label     string            `json:"label"`
		TickMs    *int64            `json:"tickMs"`
		Retention *int              `json:"retentionDays"`
	}
	if err := decode(c, &r); err != nil {
		return err
	}
	g := devices.Group{Path: r.Path, Label: r.Label, Retention: r.Retention}
	if t := duration(r.TickMs); t != nil {
		g.Tick = *t
	}
	g, err := a.d.Inventory.CreateGroup(c.UserContext(), auth.Caller(c), g)
	if err != nil {
		return err
	}
	return created(c, "/api/v1/groups/"+string(g.Path), groupView(g))
}

func (a *API) getGroup(c *fiber.Ctx) error {
	p, err := path(c)
	if err != nil {
		return err
	}
	stats, err := flag(c, "stats")
	if err != nil {
		return err
	}
	g, err := a.d.Inventory.Group(c.UserContext(), auth.Caller(c), p)
	if err == nil && stats {
		return c.JSON(a.withStats(g))
	}
	return answer(c, groupView(g), err)
}

func (a *API) patchGroup(c *fiber.Ctx) error {
	p, err := path(c)
	if err != nil {
		return err
	}
	var r struct {
		Label     *string       `json:"label"`
		TickMs    *int64        `json:"tickMs"`
		Retention nullable[int] `json:"retentionDays"`
	}
	if err := decode(c, &r); err != nil {
		return err
	}
	g, err := a.d.Inventory.UpdateGroup(c.UserContext(), auth.Caller(c), p, inventory.GroupPatch{Label: r.Label, Tick: duration(r.TickMs), Retention: r.Retention.pointer()})
	return answer(c, groupView(g), err)
}

func (a *API) deleteGroup(c *fiber.Ctx) error {
	p, err := path(c)
	if err != nil {
		return err
	}
	withDevices, err := flag(c, "devices")
	if err != nil {
		return err
	}
	return none(c, a.d.Inventory.DeleteGroup(c.UserContext(), auth.Caller(c), p, withDevices))
}
