package admin

import (
	"encoding/json"
	"fmt"
	"net/url"
	"sort"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"millrace/dashboard/auth"
	"millrace/dashboard/pages"
	"millrace/devices"
	"millrace/devices/inventory"
)

// rejects are those the caller may know of: of devices in groups it manages; those of unknown devices are for site admins.
func (h *handler) rejects(caller inventory.Caller, device devices.ID, limit int) []pages.Reject {
	all := h.Intake.Rejects(device, limit)
	if caller.SiteAdmin() {
		return all
	}
	may := map[devices.ID]bool{}
	var mine []pages.Reject
	for _, r := range all {
		ok, known := may[r.Device]
		if !known {
			d := h.Catalog.Device(r.Device)
			ok = d != nil && caller.CanAny(devices.Admin, d.Info().Groups)
			may[r.Device] = ok
		}
		if ok {
			mine = append(mine, r)
		}
	}
	return mine
}

// shownRejects is the longest list of refused messages, searched and shown.
const shownRejects = 500

func (h *handler) intake(c *fiber.Ctx) error {
	caller := auth.Caller(c)
	v := pages.AdminIntake{AdminPage: h.page(c, "intake", "Intake errors"), Device: asked(c, "device"), Kind: asked(c, "kind")}
	all := h.rejects(caller, "", shownRejects)
	counts := map[string]uint64{}
	for _, r := range all {
		counts[r.Kind]++
		if (v.Device == "" || strings.Contains(strings.ToLower(string(r.Device)), strings.ToLower(v.Device))) && (v.Kind == "" || v.Kind == r.Kind) {
			v.Rejects = append(v.Rejects, r)
		}
	}
	if v.SiteAdmin {
		v.Kinds, v.Total = h.System.Status(c.UserContext()).Rejected, true
	} else {
		for k, n := range counts {
			v.Kinds = append(v.Kinds, pages.KindCount{Kind: k, Count: n})
		}
	}
	sort.Slice(v.Kinds, func(i, j int) bool { return v.Kinds[i].Count > v.Kinds[j].Count })
	return render(c, fiber.StatusOK, pages.AdminIntakePage(v))
}

func (h *handler) audit(c *fiber.Ctx) error {
	ctx, caller := c.UserContext(), auth.Caller(c)
	v := pages.AdminAudit{AdminPage: h.page(c, "audit", "Audit"), Actor: asked(c, "actor"), Action: asked(c, "action"), Object: asked(c, "object"), After: asked(c, "after")}
	list, err := h.Inventory.Audit(ctx, caller, devices.AuditFilter{Page: devices.Page{After: v.After}, Actor: v.Actor, Action: v.Action, Object: v.Object})
	if err != nil {
		return err
	}
	n, err := h.names(ctx, caller)
	if err != nil {
		return err
	}
	for _, e := range list.Items {
		v.Entries = append(v.Entries, n.auditRow(e))
	}
	v.Next = list.Next
	return render(c, fiber.StatusOK, pages.AdminAuditPage(v))
}

var verbs = map[string]string{
	"device.create": "created the device", "device.update": "changed the device", "device.delete": "deleted the device",
	"credential.create": "added a credential to", "credential.delete": "revoked a credential of",
	"group.create": "created the group", "group.update": "changed the group", "group.delete": "deleted the group",
	"series.update": "changed the series", "metric.update": "changed the defaults of the metric",
	"user.create": "created the user", "user.update": "changed the user", "user.delete": "deleted the user",
	"binding.create": "gave a role to", "binding.delete": "took a role from",
	"token.create": "created the API token", "token.delete": "revoked the API token",
	"session.create": "signed in as", "session.fail": "could not sign in as", "session.delete": "signed out",
	"history.retry": "stored again the refused chunk", "history.discard": "discarded the refused chunk",
}

// auditRow makes a sentence of an entry.
func (n names) auditRow(e devices.AuditEntry) pages.AuditRow {
	row := pages.AuditRow{AuditEntry: e, Does: verbs[e.Action], Name: e.Object}
	if row.Does == "" {
		row.Does = "did " + e.Action + " on"
	}
	var detail map[string]any
	if json.Unmarshal(e.Detail, &detail) != nil {
		detail = nil
	}
	noun, verb, _ := strings.Cut(e.Action, ".")
	text := func(key string) string { s, _ := detail[key].(string); return s }
	switch noun {
	case "device", "credential":
		if verb != "delete" || noun == "credential" {
			row.Href = deviceURL(devices.ID(e.Object), "")
		}
	case "series":
		device, _, _ := strings.Cut(e.Object, "/")
		row.Href = deviceURL(devices.ID(device), "#series")
	case "group":
		if verb != "delete" {
			row.Href = groupURL("view", devices.GroupPath(e.Object))
		}
	case "user", "session":
		if u, ok := n.users[e.Object]; ok {
			row.Name, row.Href = u.Email, "/admin/users/"+url.PathEscape(u.ID)
		} else if email := text("email"); email != "" {
			row.Name = email
		}
		delete(detail, "email")
		if e.Action == "session.create" && row.Name == e.Actor {
			row.Does, row.Name = "signed in", ""
		}
	case "token":
		if name := text("name"); name != "" {
			row.Name = name
		}
		delete(detail, "name")
	case "binding":
		who := text("user") + text("token")
		row.Name = who
		if u, ok := n.users[who]; ok {
			row.Name, row.Href = u.Email, "/admin/users/"+url.PathEscape(u.ID)
		} else if t, ok := n.tokens[who]; ok {
			row.Name = t.Name
		}
		row.Detail = []string{fmt.Sprintf("%s of %s", text("role"), groupName(devices.GroupPath(text("group"))))}
		detail = nil
	}
	keys := make([]string, 0, len(detail))
	for k := range detail {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		if detail[k] == nil || detail[k] == "" || detail[k] == 0.0 {
			continue
		}
		b, _ := json.Marshal(detail[k]) // what was decoded can be encoded
		row.Detail = append(row.Detail, k+": "+strings.Trim(string(b), `"`))
	}
	return row
}

func (h *handler) system(c *fiber.Ctx) error {
	if !auth.Caller(c).SiteAdmin() {
		return devices.ErrForbidden
	}
	s := h.System.Status(c.UserContext())
	if s.At.IsZero() {
		s.At = now()
	}
	h.setRates(&s)
	return render(c, fiber.StatusOK, pages.AdminSystemPage(pages.AdminSystem{AdminPage: h.page(c, "system", "System"), S: s}))
}

// A sample is the intake counters at one moment.
type sample struct {
	at     time.Time
	intake []pages.IntakeStatus
}

// Rates are taken over the time since the oldest sample kept, and samples are kept for rateWindow, one each rateStep at most,
// however many viewers ask.
const (
	rateWindow = 6 * time.Second
	rateStep   = time.Second
)

// setRates fills in the rates of a status from earlier ones; negative while there is none.
func (h *handler) setRates(s *pages.SystemStatus) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.rates) > 1 && s.At.Sub(h.rates[1].at) > rateWindow {
		h.rates = h.rates[1:]
	}
	if len(h.rates) == 1 && s.At.Sub(h.rates[0].at) > 10*rateWindow {
		h.rates = nil // nobody has looked for a while: a mean over all of it says little
	}
	for i := range s.Intake {
		p := &s.Intake[i]
		p.MessageRate, p.SampleRate = -1, -1
		if len(h.rates) == 0 || s.At.Sub(h.rates[0].at) < rateStep/2 {
			continue
		}
		seconds := s.At.Sub(h.rates[0].at).Seconds()
		var old pages.IntakeStatus
		for _, o := range h.rates[0].intake {
			if o.Protocol == p.Protocol {
				old = o
			}
		}
		p.MessageRate, p.SampleRate = float64(p.Messages-old.Messages)/seconds, float64(p.Samples-old.Samples)/seconds
	}
	if n := len(h.rates); n == 0 || s.At.Sub(h.rates[n-1].at) >= rateStep {
		h.rates = append(h.rates, sample{at: s.At, intake: append([]pages.IntakeStatus(nil), s.Intake...)})
	}
}
