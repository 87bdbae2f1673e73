package admin

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/gofiber/fiber/v2"

	"millrace/dashboard/auth"
	"millrace/dashboard/pages"
	"millrace/devices"
)

// History tells what is recorded, and mends what could not be.
type History interface {
	// SizeOf is what is recorded of these devices, as it was some minutes ago at most.
	SizeOf(ctx context.Context, ids []devices.ID) (devices.HistorySize, error)
	// SiteRetention is how many days samples stay where no group says otherwise.
	SiteRetention() int
	// LostByRetention is what would be deleted if a group kept samples for so many days, nil: as the group above it.
	LostByRetention(ctx context.Context, path devices.GroupPath, days *int) (devices.HistorySize, error)
	// LostByDeletion is what would be deleted if a group were, and its devices stayed.
	LostByDeletion(ctx context.Context, path devices.GroupPath) (devices.HistorySize, error)
	// RetryParked writes a chunk again that the database has refused, DiscardParked deletes it.
	RetryParked(ctx context.Context, id int64) error
	DiscardParked(ctx context.Context, id int64) error
}

// retention is how long what stays, from the catalog.
func (h *handler) retention() devices.Retention {
	r := devices.Retention{Groups: make(map[devices.GroupPath]int)}
	if h.History != nil {
		r.Site = h.History.SiteRetention()
	}
	for _, g := range h.Catalog.Groups() {
		if g.Retention != nil {
			r.Groups[g.Path] = *g.Retention
		}
	}
	return r
}

// recordedIn is what is recorded in a group; what does not answer is not shown.
func (h *handler) recordedIn(c *fiber.Ctx, p devices.GroupPath) pages.Recorded {
	var ids []devices.ID
	for _, d := range h.Catalog.DevicesIn(p) {
		ids = append(ids, d.ID())
	}
	return h.recorded(c, ids, pages.RetentionOf(h.retention(), p))
}

func (h *handler) recordedOf(c *fiber.Ctx, d devices.Device) pages.Recorded {
	return h.recorded(c, []devices.ID{d.ID}, pages.RetentionText(h.retention().Days(d.Groups)))
}

func (h *handler) recorded(c *fiber.Ctx, ids []devices.ID, keeps string) pages.Recorded {
	if h.History == nil {
		return pages.Recorded{}
	}
	size, err := h.History.SizeOf(c.UserContext(), ids)
	return pages.Recorded{Shown: err == nil, Size: size, Keeps: keeps}
}

// readRetention reads the choice.
func readRetention(f pages.RetentionForm) (*int, error) {
	switch f.Keep {
	case "forever":
		days := devices.Forever
		return &days, nil
	case "days":
		days, err := strconv.Atoi(f.Days)
		if err != nil || days < 1 || days > devices.MaxRetention {
			return nil, devices.Invalid("retentionDays", "must be 1 to %d days", devices.MaxRetention)
		}
		return &days, nil
	}
	return nil, nil
}

func (h *handler) retentionForm(p devices.GroupPath, own *int) pages.RetentionForm {
	f := pages.RetentionForm{Keep: "inherit", Above: "as in the group above"}
	if p != devices.Site {
		f.Above = "as above: " + pages.RetentionOf(h.retention(), p.Parent())
	}
	switch {
	case own == nil:
	case *own == devices.Forever:
		f.Keep = "forever"
	default:
		f.Keep, f.Days = "days", strconv.Itoa(*own)
	}
	return f
}

// loss asks whether what a shorter retention deletes is to go, unless the form says so already; nil when there is nothing to ask.
func (h *handler) loss(c *fiber.Ctx, p devices.GroupPath, days *int) (*pages.Loss, error) {
	if h.History == nil || !auth.Caller(c).Can(devices.Admin, p) { // who may not is told so by the inventory
		return nil, nil
	}
	l := &pages.Loss{Value: "inherit"}
	if days != nil {
		l.Value = strconv.Itoa(*days)
	}
	said := value(c, "lose")
	if said == l.Value {
		return nil, nil
	}
	size, err := h.History.LostByRetention(c.UserContext(), p, days)
	if err != nil {
		return nil, err
	}
	if size.Samples == 0 {
		return nil, nil
	}
	l.Text = fmt.Sprintf("This deletes %s within the hour. They can't be brought back.", pages.RecordedText(size))
	return l, nil
}

func (h *handler) parkedBox(c *fiber.Ctx) (id int64, q pages.AdminConfirm, err error) {
	if !auth.Caller(c).SiteAdmin() {
		return 0, q, devices.ErrForbidden
	}
	if id, err = strconv.ParseInt(c.Params("id"), 10, 64); err != nil {
		return 0, q, fmt.Errorf("parked chunk: %w", devices.ErrNotFound)
	}
	q.Box = h.box(c, "system", "Discard these samples?", "/admin/system/parked/"+strconv.FormatInt(id, 10)+"/discard", "/admin/system", "Discard")
	q.Danger = true
	for _, p := range h.System.Status(c.UserContext()).History.Parked {
		if p.ID == id {
			q.Lost = []string{fmt.Sprintf("%s of %s/%s, from %s UTC on.", pages.Count(p.Samples, "sample"), p.Device, p.Metric, p.Start.UTC().Format("2006-01-02 15:04:05"))}
		}
	}
	q.Stays = "They are in no chart and no answer now. When they are discarded they can't be stored any more."
	return id, q, nil
}

func (h *handler) confirmDiscardParked(c *fiber.Ctx) error {
	_, q, err := h.parkedBox(c)
	if err != nil {
		return err
	}
	return render(c, fiber.StatusOK, pages.AdminConfirmPage(q))
}

func (h *handler) discardParked(c *fiber.Ctx) error {
	id, q, err := h.parkedBox(c)
	if err == nil {
		if err = h.mendParked(c, id, "discard"); err != nil {
			return confirmAgain(c, q, err)
		}
	}
	if err != nil {
		return err
	}
	return done(c, "/admin/system", "The samples were discarded.")
}

func (h *handler) retryParked(c *fiber.Ctx) error {
	id, _, err := h.parkedBox(c)
	if err == nil {
		err = h.mendParked(c, id, "retry")
	}
	if _, _, ok := faults(err); ok && !errors.Is(err, devices.ErrForbidden) {
		return done(c, "/admin/system", "The samples could not be stored: "+strings.TrimSuffix(err.Error(), ".")+".")
	}
	if err != nil {
		return err
	}
	return done(c, "/admin/system", "The samples are stored.")
}

// mendParked does what it says to a parked chunk, and notes who did.
func (h *handler) mendParked(c *fiber.Ctx, id int64, what string) error {
	if h.History == nil {
		return devices.ErrNotFound
	}
	ctx, do := c.UserContext(), h.History.RetryParked
	if what == "discard" {
		do = h.History.DiscardParked
	}
	if err := do(ctx, id); err != nil {
		return err
	}
	return h.Inventory.Note(ctx, auth.Caller(c), "history."+what, strconv.FormatInt(id, 10))
}
