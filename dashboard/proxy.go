package dashboard

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"
)

// proxies are the addresses and networks whose word on where a request comes from is taken.
type proxies []netip.Prefix

func newProxies(trusted []string) (p proxies) {
	for _, s := range trusted {
		if a, err := netip.ParseAddr(s); err == nil {
			p = append(p, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
		} else if n, err := netip.ParsePrefix(s); err == nil {
			p = append(p, n.Masked())
		}
	}
	return p
}

func (p proxies) contain(a netip.Addr) bool {
	return slices.ContainsFunc(p, func(n netip.Prefix) bool { return n.Contains(a) })
}

// client finds, in the X-Forwarded-For that a trusted proxy sent, the address that the outermost trusted proxy saw: the last
// that is not a proxy itself. Each proxy adds to the right, so what stands further left may be invented by the client. "" if
// there is none.
func (p proxies) client(forwarded string) string {
	found := ""
	for forwarded != "" {
		i := strings.LastIndexByte(forwarded, ',')
		one := strings.TrimSpace(forwarded[i+1:])
		forwarded = forwarded[:max(i, 0)]
		a, err := netip.ParseAddr(strings.Trim(one, "[]"))
		if err != nil {
			withPort, err := netip.ParseAddrPort(one) // some proxies add the port
			if err != nil {
				break // what stands left of it was not written by a proxy of ours
			}
			a = withPort.Addr()
		}
		a = a.Unmap().WithZone("")
		found = a.String()
		if !p.contain(a) {
			break
		}
	}
	return found
}

// forwarded leaves in X-Forwarded-For the one address that is to be believed; Fiber would take the first of them.
func (a *App) forwarded(c *fiber.Ctx) error {
	all := c.Request().Header.PeekAll(fiber.HeaderXForwardedFor)
	if len(all) == 0 || !c.IsProxyTrusted() {
		return c.Next()
	}
	lines := make([]string, len(all))
	for i, b := range all {
		lines[i] = string(b)
	}
	c.Request().Header.Del(fiber.HeaderXForwardedFor)
	if client := a.proxies.client(strings.Join(lines, ",")); client != "" {
		c.Request().Header.Set(fiber.HeaderXForwardedFor, client)
	}
	return c.Next()
}
