package devices

import "time"

// A Role says what its holder may do in a group and below.
type Role string

// Roles, each but Ingest including those before it.
const (
	Viewer   Role = "viewer"   // sees
	Operator Role = "operator" // also commands and acknowledges
	Editor   Role = "editor"   // also edits dashboards
	Admin    Role = "admin"    // also manages devices, groups and members; on Site: everything
	Ingest   Role = "ingest"   // only writes samples of the devices there; Admin includes it
)

var rank = map[Role]int{Viewer: 1, Operator: 2, Editor: 3, Admin: 4}

// Validate reports a FieldError "role" for anything but the roles above.
func (r Role) Validate() error {
	if rank[r] == 0 && r != Ingest {
		return Invalid("role", "must be viewer, operator, editor, admin or ingest")
	}
	return nil
}

// Includes reports whether a holder of r may do what wanted is needed for.
func (r Role) Includes(wanted Role) bool {
	if wanted == Ingest {
		return r == Ingest || r == Admin
	}
	return rank[wanted] > 0 && rank[r] >= rank[wanted]
}

// A Binding gives a user or an API token a role in a group and all below. Exactly one of User and Token is set.
type Binding struct {
	ID    string    `json:"id"`
	User  string    `json:"user,omitempty"`  // User.ID
	Token string    `json:"token,omitempty"` // APIToken.ID
	Group GroupPath `json:"group"`
	Role  Role      `json:"role"`
}

// A PrincipalKind says who acts.
type PrincipalKind string

// Kinds of principals.
const (
	UserPrincipal   PrincipalKind = "user"
	TokenPrincipal  PrincipalKind = "token"
	DevicePrincipal PrincipalKind = "device"
	SystemPrincipal PrincipalKind = "system" // the server itself and the command line
)

// A Principal is who acts, with the rights held at the moment it was looked up. It is immutable: a change of rights makes a
// new one. A nil Principal may nothing.
type Principal struct {
	Kind     PrincipalKind
	ID       string // User.ID, APIToken.ID, device id
	Name     string // e-mail, token name, device id; for logs and the audit
	Bindings []Binding
	Expires  time.Time // zero: never. Its holder is refused from then on, also on open connections
}

// System is the server itself and the command line on the machine: it may everything.
var System = &Principal{Kind: SystemPrincipal, ID: "system", Name: "system", Bindings: []Binding{{Group: Site, Role: Admin}}}

// Can reports whether p holds the role, or one that includes it, in the group: on it or on a path above.
func (p *Principal) Can(role Role, in GroupPath) bool {
	if p == nil {
		return false
	}
	for i := range p.Bindings {
		if b := &p.Bindings[i]; b.Role.Includes(role) && b.Group.Contains(in) {
			return true
		}
	}
	return false
}

// CanAny reports whether p holds the role in at least one of the groups, or on the whole site.
// It is the question for a device, which may be in several groups or in none.
func (p *Principal) CanAny(role Role, in []GroupPath) bool {
	for _, g := range in {
		if p.Can(role, g) {
			return true
		}
	}
	return p.Can(role, Site)
}

// CanAll reports whether p holds the role in each of the groups; with none, on the whole site.
func (p *Principal) CanAll(role Role, in []GroupPath) bool {
	for _, g := range in {
		if !p.Can(role, g) {
			return false
		}
	}
	return len(in) > 0 || p.Can(role, Site)
}

// CanSomewhere reports whether p holds the role on any path at all.
func (p *Principal) CanSomewhere(role Role) bool {
	if p == nil {
		return false
	}
	for i := range p.Bindings {
		if p.Bindings[i].Role.Includes(role) {
			return true
		}
	}
	return false
}

// SiteAdmin reports whether p may everything.
func (p *Principal) SiteAdmin() bool { return p.Can(Admin, Site) }
