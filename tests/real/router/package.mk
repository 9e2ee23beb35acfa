# The other half of the stand-in: what a recipe's last lines come to.
all:
define BuildPackage
$(eval $(Package/$(1)))
PACKAGES+=$(1)
endef

define Install
$(call Package/$(1)/install,$(DESTDIR))

endef
define Conffiles
$(Package/$(1)/conffiles)
endef
export CONFFILES=$(foreach package,$(PACKAGES),$(call Conffiles,$(package)))

all:
	$(Build/Prepare)
	$(Build/Configure)
	$(Build/Compile)
	$(foreach package,$(PACKAGES),$(call Install,$(package)))
	@echo "version: $(PKG_VERSION)"
	@echo "user: $(USERID)"
	@echo "conffiles:" $$CONFFILES
