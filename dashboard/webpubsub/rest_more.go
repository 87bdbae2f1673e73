package webpubsub

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"millrace/dashboard/webpubsub/access"
	"millrace/dashboard/webpubsub/protocol"
	"millrace/fanout/hub"
)

// generateToken makes a token for a client, for servers that have no key at hand.
func (k *call) generateToken() error {
	minutes := 60
	if v, ok := k.query["minutesToExpire"]; ok {
		var err error
		if minutes, err = strconv.Atoi(v[len(v)-1]); err != nil || minutes < 1 {
			return invalid("minutesToExpire", "minutesToExpire must be at least 1.")
		}
	}
	path := "/client/hubs/"
	switch kind := k.query.Get("clientType"); strings.ToLower(kind) {
	case "", "default":
	case "mqtt":
		path = "/clients/mqtt/hubs/"
	case "socketio":
		path = "/clients/socketio/hubs/"
	default:
		return invalid("clientType", "clientType can be Default, MQTT or SocketIO.")
	}
	for _, g := range k.query["group"] {
		if !protocol.ValidGroup(g) {
			return invalid("group", badGroup)
		}
	}
	key := k.e.settings.Keys().Primary
	life := time.Duration(min(minutes, 10*365*24*60)) * time.Minute
	token, err := access.Sign(key, access.Grant{User: k.query.Get("userId"), Roles: k.query["role"], Groups: k.query["group"], Life: life,
		Endpoint: k.c.BaseURL(), Path: path + k.hub.Name()}, time.Now())
	if err != nil {
		return err
	}
	return k.c.JSON(map[string]string{"token": token})
}

// changeGroups adds connections that match a filter to groups, or removes them.
func (k *call) changeGroups(add bool) error {
	if kind, _, err := mime.ParseMediaType(k.c.Get(fiber.HeaderContentType)); err != nil || kind != "application/json" {
		return &restError{Code: "Error.UnsupportedMediaType", Message: "The content type must be application/json.", Target: "Request", status: http.StatusUnsupportedMediaType}
	}
	var body struct {
		Groups []string `json:"groups"`
		Filter *string  `json:"filter"`
	}
	if err := json.Unmarshal(k.body(), &body); err != nil {
		return invalid("Request", "The request body is not a valid JSON.")
	}
	if len(body.Groups) == 0 {
		return invalid("groups", "groups must not be empty.")
	}
	for _, g := range body.Groups {
		if !protocol.ValidGroup(g) {
			return invalid("groups", badGroup)
		}
	}
	var match hub.Match
	if body.Filter != nil {
		var err error
		if match, err = matching(*body.Filter, "Filter"); err != nil {
			return err
		}
	}
	k.hub.ChangeGroups(body.Groups, add, match)
	return k.done(http.StatusOK)
}

// permitted is what a request about a permission names; all says that no group was named, which means every group.
func (k *call) permitted() (p hub.Permission, group string, c *hub.Conn, err error) {
	p, ok := permissionOf(k.path[1])
	if !ok {
		return 0, "", nil, invalid("permission", "The permission can be sendToGroup or joinLeaveGroup.")
	}
	if v, named := k.query["targetName"]; named {
		group = v[len(v)-1]
		if !protocol.ValidGroup(group) {
			return 0, "", nil, invalid("targetName", badGroup)
		}
	}
	if c, ok = k.hub.Conn(k.path[3]); !ok {
		err = notFound("Info", "Connection", k.path[3])
	}
	return p, group, c, err
}

// ruled turns the error of too many rules into the API's.
func ruled(err error) error {
	if errors.Is(err, hub.ErrRules) {
		return &restError{Code: "Error.Connection.Conflict", Message: "The connection has as many rules for this permission as it can have.", Target: "Connection", status: http.StatusConflict}
	}
	return err
}

func (k *call) grant() error {
	p, group, c, err := k.permitted()
	if err == nil {
		err = ruled(c.Grant(p, group))
	}
	if err != nil {
		return err
	}
	return k.done(http.StatusOK)
}

func (k *call) revoke() error {
	p, group, c, err := k.permitted()
	if failed, ok := errors.AsType[*restError](err); ok && failed.status == http.StatusNotFound {
		return k.done(http.StatusNoContent)
	}
	if err == nil {
		err = ruled(c.Revoke(p, group))
	}
	if err != nil {
		return err
	}
	return k.done(http.StatusNoContent)
}

func (k *call) checkPermission() error {
	p, group, c, err := k.permitted()
	if err != nil {
		return err
	}
	if group == "" && !c.AllowedAll(p) || group != "" && !c.Allowed(p, group) {
		return notFound("Info", "Connection", k.path[3])
	}
	return k.done(http.StatusOK)
}

// maxPage is the largest page of a list.
const maxPage = 200

// number reads a parameter that is given at most once.
func (k *call) number(name string, most int) (int, bool, error) {
	v, ok := k.query[name]
	if !ok {
		return 0, false, nil
	}
	n, err := strconv.Atoi(v[0])
	if len(v) > 1 || err != nil || n < 1 || n > most {
		return 0, false, invalid(name, "%s must be given once, and be between 1 and %d.", name, most)
	}
	return n, true, nil
}

// members lists the connections of a group, by id. A page ends where the next begins, whoever joins or leaves between.
func (k *call) members() error {
	group, err := k.group(1)
	if err != nil {
		return err
	}
	size, sized, err := k.number("maxpagesize", maxPage)
	if err != nil {
		return err
	}
	top, limited, err := k.number("top", math.MaxInt32)
	if err != nil {
		return err
	}
	after := ""
	if v, ok := k.query["continuationToken"]; ok {
		if after, ok = k.e.cursor(k.hub.Name(), group, v[0]); !ok || len(v) > 1 {
			return invalid("continuationToken", "The continuation token is not valid.")
		}
	}
	n := maxPage
	if sized {
		n = size
	}
	if limited {
		n = min(n, top)
	}
	found := k.hub.Members(group, after, n+1)
	more := len(found) > n && (!limited || top > n)
	found = found[:min(n, len(found))]
	type item struct {
		ConnectionID string `json:"connectionId"`
		UserID       string `json:"userId,omitempty"`
	}
	page := struct {
		Value    []item `json:"value"`
		NextLink string `json:"nextLink,omitempty"`
	}{Value: make([]item, 0, len(found))}
	for _, c := range found {
		page.Value = append(page.Value, item{c.ID(), c.User()})
	}
	if more {
		q := url.Values{"continuationToken": {k.e.cursorAt(k.hub.Name(), group, found[len(found)-1].ID())}}
		if v := k.query.Get("api-version"); v != "" {
			q.Set("api-version", v)
		}
		if sized {
			q.Set("maxpagesize", strconv.Itoa(size))
		}
		if limited {
			q.Set("top", strconv.Itoa(top-n))
		}
		page.NextLink = k.c.BaseURL() + string(k.c.Request().URI().PathOriginal()) + "?" + q.Encode()
	}
	return k.c.JSON(page)
}

// cursorAt makes the token of a page that begins after a connection. It is signed, so that nobody's own guess is taken for one.
func (e *Endpoint) cursorAt(hubName, group, id string) string {
	return base64.RawURLEncoding.EncodeToString(append(e.cursorSum(hubName, group, id), id...))
}

func (e *Endpoint) cursorSum(hubName, group, id string) []byte {
	h := hmac.New(sha256.New, []byte(e.settings.Keys().Primary))
	for _, s := range []string{"members", hubName, group, id} {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	return h.Sum(nil)[:12]
}

// cursor reads what cursorAt made.
func (e *Endpoint) cursor(hubName, group, token string) (after string, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(token) > 2048 || len(b) <= 12 {
		return "", false
	}
	after = string(b[12:])
	return after, hmac.Equal(b[:12], e.cursorSum(hubName, group, after))
}
