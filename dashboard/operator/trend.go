package operator

import (
	"github.com/gofiber/fiber/v2"

	"millrace/dashboard/pages"
	"millrace/devices"
)

// trends is the page on which one compares series. It holds none itself: the browser asks the API for those that the address names,
// with the viewer's rights.
func (h *handler) trends(c *fiber.Ctx) error {
	p := Page(c, "Trends")
	p.Trail = append(pages.GroupTrail(devices.Site), pages.Crumb{Label: "Trends"})
	p.Script, p.Live, p.Wide = "trend.js", true, true
	return Render(c, fiber.StatusOK, pages.Trends(p))
}
