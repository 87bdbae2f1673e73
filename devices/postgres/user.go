package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/postgres/pgerr"
)

const userColumns = `select id, email, name, password_hash, disabled, created_at, last_login from site_user`

const (
	usersPage      = userColumns + ` where email > @after order by email limit @limit`
	userByID       = userColumns + ` where id = @id`
	userByIDLocked = userColumns + ` where id = @id for update`
	userByEmail    = userColumns + ` where email = @email`
	insertUser     = `insert into site_user (id, email, name, password_hash, disabled) values (@id, @email, @name, @password, @disabled)`
	updateUser     = `update site_user set email = @email, name = @name, password_hash = @password, disabled = @disabled where id = @id`
	setPassword    = `update site_user set password_hash = @password, disabled = false where id = @id`
	deleteUser     = `delete from site_user where id = @id`
	siteAdmins     = `select count(*) from site_user u where not u.disabled and exists (
		select from role_binding b where b.user_id = u.id and b.path = '' and b.role = 'admin')`
	lockAccess = `select pg_advisory_xact_lock(5264109)` // changes of who may what come one after the other
)

// Users returns a page, by e-mail.
func (s *Store) Users(ctx context.Context, p devices.Page) (devices.List[devices.User], error) {
	found, err := list[devices.User](ctx, s.pool, usersPage, pgx.StrictNamedArgs{"after": p.After, "limit": p.Size() + 1})
	if err != nil {
		return devices.List[devices.User]{}, fmt.Errorf("users: %w", err)
	}
	return page(found, p.Size(), func(u devices.User) string { return u.Email }), nil
}

// User returns one by id.
func (s *Store) User(ctx context.Context, id string) (devices.User, error) {
	u, err := one[devices.User](ctx, s.pool, userByID, pgx.StrictNamedArgs{"id": id})
	if err != nil {
		return u, fmt.Errorf("user %s: %w", id, err)
	}
	return u, nil
}

// UserByEmail returns one by its e-mail in lower case.
func (s *Store) UserByEmail(ctx context.Context, email string) (devices.User, error) {
	u, err := one[devices.User](ctx, s.pool, userByEmail, pgx.StrictNamedArgs{"email": email})
	if err != nil {
		return u, fmt.Errorf("user %s: %w", email, err)
	}
	return u, nil
}

// CreateUser adds one; its ID is made here. ErrExists: the e-mail is taken.
func (s *Store) CreateUser(ctx context.Context, by devices.Actor, u devices.User) (devices.User, error) {
	err := s.mutate(ctx, by, func(m *mutation) (err error) {
		u, err = m.addUser(ctx, u)
		return err
	})
	if err != nil {
		return u, fmt.Errorf("create user %s: %w", u.Email, pgerr.Domain(err))
	}
	return u, nil
}

// UpdateUser changes one as the function says. With endSessions it signs the user out everywhere but in the session with the
// hash keep. The last site admin can't be disabled.
func (s *Store) UpdateUser(ctx context.Context, by devices.Actor, id string, change func(*devices.User) error, endSessions bool, keep []byte) (devices.User, error) {
	var now devices.User
	err := s.mutate(ctx, by, func(m *mutation) error {
		return m.keepingAdmin(ctx, func() error {
			before, err := one[devices.User](ctx, m, userByIDLocked, pgx.StrictNamedArgs{"id": id})
			if err != nil {
				return err
			}
			now = before
			if err := change(&now); err != nil {
				return err
			}
			now.ID = id
			detail := make(map[string]any)
			if before.Email != now.Email {
				detail["email"] = now.Email
			}
			if before.Name != now.Name {
				detail["name"] = now.Name
			}
			if before.Disabled != now.Disabled {
				detail["disabled"] = now.Disabled
			}
			if before.PasswordHash != now.PasswordHash {
				detail["password"] = "changed"
			}
			if len(detail) == 0 {
				return nil
			}
			if err := exec(ctx, m, updateUser, userArgs(now)); err != nil {
				return err
			}
			if endSessions {
				if _, err := m.Exec(ctx, deleteSessionsOf, pgx.StrictNamedArgs{"user": id, "keep": keep}); err != nil {
					return err
				}
			}
			m.audit("user.update", id, detail)
			m.changed(catalog.AccessChanged)
			return nil
		})
	})
	if err != nil {
		return now, fmt.Errorf("update user %s: %w", id, pgerr.Domain(err))
	}
	return now, nil
}

// DeleteUser deletes one with bindings and sessions. The last site admin can't be deleted.
func (s *Store) DeleteUser(ctx context.Context, by devices.Actor, id string) error {
	err := s.mutate(ctx, by, func(m *mutation) error {
		return m.keepingAdmin(ctx, func() error {
			u, err := one[devices.User](ctx, m, userByIDLocked, pgx.StrictNamedArgs{"id": id})
			if err != nil {
				return err
			}
			if err := exec(ctx, m, deleteUser, pgx.StrictNamedArgs{"id": id}); err != nil {
				return err
			}
			m.audit("user.delete", id, map[string]any{"email": u.Email})
			m.changed(catalog.AccessChanged)
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("delete user %s: %w", id, pgerr.Domain(err))
	}
	return nil
}

// CreateFirstAdmin makes the user (or the one with this e-mail) a site admin with the given password, if there is no site admin who
// can sign in. created is false otherwise.
func (s *Store) CreateFirstAdmin(ctx context.Context, by devices.Actor, u devices.User) (created bool, err error) {
	err = s.mutate(ctx, by, func(m *mutation) error {
		admins, err := m.siteAdmins(ctx)
		if err != nil || admins > 0 {
			return err
		}
		created = true
		there, err := list[devices.User](ctx, m, userByEmail, pgx.StrictNamedArgs{"email": u.Email})
		if err != nil {
			return err
		}
		if len(there) > 0 {
			if err := exec(ctx, m, setPassword, pgx.StrictNamedArgs{"id": there[0].ID, "password": u.PasswordHash}); err != nil {
				return err
			}
			m.audit("user.update", there[0].ID, map[string]any{"password": "changed", "disabled": false})
			u = there[0]
		} else if u, err = m.addUser(ctx, u); err != nil {
			return err
		}
		return m.ensureBinding(ctx, devices.Binding{User: u.ID, Role: devices.Admin, Group: devices.Site})
	})
	if err != nil {
		return false, fmt.Errorf("create first admin %s: %w", u.Email, pgerr.Domain(err))
	}
	return created, nil
}

func (m *mutation) addUser(ctx context.Context, u devices.User) (devices.User, error) {
	u.ID = newID()
	if _, err := m.Exec(ctx, insertUser, userArgs(u)); err != nil {
		return u, err
	}
	m.audit("user.create", u.ID, map[string]any{"email": u.Email, "name": u.Name})
	m.changed(catalog.AccessChanged)
	return one[devices.User](ctx, m, userByID, pgx.StrictNamedArgs{"id": u.ID})
}

// keepingAdmin runs a change of who may what, and undoes it if it leaves the site without an admin who can sign in.
func (m *mutation) keepingAdmin(ctx context.Context, f func() error) error {
	before, err := m.siteAdmins(ctx)
	if err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	after, err := m.siteAdmins(ctx)
	if err == nil && before > 0 && after == 0 {
		err = devices.Invalid("user", "is the last site admin who can sign in; make another one first")
	}
	return err
}

// siteAdmins counts those who can sign in, and lets no other transaction change the number before this one ends.
func (m *mutation) siteAdmins(ctx context.Context) (n int, err error) {
	if _, err := m.Exec(ctx, lockAccess); err != nil {
		return 0, err
	}
	err = m.QueryRow(ctx, siteAdmins).Scan(&n)
	return n, err
}

func userArgs(u devices.User) pgx.StrictNamedArgs {
	return pgx.StrictNamedArgs{"id": u.ID, "email": u.Email, "name": u.Name, "password": u.PasswordHash, "disabled": u.Disabled}
}
