package webpubsub

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/gofiber/fiber/v2"

	"millrace/dashboard/auth"
	"millrace/devices"
	"millrace/devices/hubs"
)

// Registry keeps the settings that site admins change; hubs.Registry is one.
type Registry interface {
	Hub(name string) hubs.Settings
	Hubs() []hubs.Settings
	Keys() hubs.Keys
	Save(ctx context.Context, by devices.Actor, s hubs.Settings) error
	Delete(ctx context.Context, by devices.Actor, name string) error
	RotateKey(ctx context.Context, by devices.Actor, which string) (hubs.Keys, error)
}

// RegisterSettings adds the API of settings, for site admins.
func RegisterSettings(r fiber.Router, registry Registry) {
	g := r.Group("/api/v1/webpubsub", auth.RequireSiteAdmin)
	g.Get("/hubs", func(c *fiber.Ctx) error {
		items := registry.Hubs()
		if items == nil {
			items = []hubs.Settings{}
		}
		return c.JSON(map[string]any{"items": items, "next": nil})
	})
	g.Get("/hubs/:hub", func(c *fiber.Ctx) error { return c.JSON(registry.Hub(c.Params("hub"))) })
	g.Put("/hubs/:hub", func(c *fiber.Ctx) error {
		var s hubs.Settings
		d := json.NewDecoder(strings.NewReader(string(c.Body())))
		d.DisallowUnknownFields()
		if err := d.Decode(&s); err != nil {
			return devices.Invalid("body", "is not the settings of a hub: %v", err)
		}
		s.Hub = strings.ToLower(c.Params("hub"))
		if err := registry.Save(c.UserContext(), auth.Caller(c).Actor(), s); err != nil {
			return err
		}
		return c.JSON(registry.Hub(s.Hub))
	})
	g.Delete("/hubs/:hub", func(c *fiber.Ctx) error {
		if err := registry.Delete(c.UserContext(), auth.Caller(c).Actor(), c.Params("hub")); err != nil {
			return err
		}
		return c.SendStatus(http.StatusNoContent)
	})
	g.Get("/keys", func(c *fiber.Ctx) error { return sendKeys(c, registry.Keys()) })
	g.Post("/keys/:which/rotate", func(c *fiber.Ctx) error {
		keys, err := registry.RotateKey(c.UserContext(), auth.Caller(c).Actor(), c.Params("which"))
		if err != nil {
			return err
		}
		return sendKeys(c, keys)
	})
}

// sendKeys answers with the keys and the connection strings that hold them.
func sendKeys(c *fiber.Ctx, k hubs.Keys) error {
	c.Set(fiber.HeaderCacheControl, "no-store")
	return c.JSON(map[string]any{
		"primary":   map[string]string{"key": k.Primary, "connectionString": ConnectionString(c.BaseURL(), k.Primary)},
		"secondary": map[string]string{"key": k.Secondary, "connectionString": ConnectionString(c.BaseURL(), k.Secondary)},
	})
}

// ConnectionString is what applications are given to reach a server at an address such as http://localhost:8080.
func ConnectionString(endpoint, key string) string {
	if u, err := url.Parse(endpoint); err == nil {
		u.Path, u.RawQuery = "", ""
		endpoint = u.String()
	}
	return fmt.Sprintf("Endpoint=%s;AccessKey=%s;Version=1.0;", endpoint, key)
}
