"""Chromium, driven as a person drives it: real drops, real keys, what is on the screen."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.remote.webelement import WebElement

# Long enough for a machine that does other things too; nothing waits for it that goes well.
PATIENCE_SECONDS = 60


class Browser:
    """One Chromium with one tab at a time."""

    def __init__(self, chromium: str, driver: str, profile: Path, *flags: str) -> None:
        options = ChromeOptions()
        options.binary_location = chromium
        for flag in (
            "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
            "disable-component-update disable-sync disable-dev-shm-usage window-size=1280,900"
        ).split():
            options.add_argument(f"--{flag}")
        for flag in (f"user-data-dir={profile}", *flags):
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = Chrome(options, ChromeService(driver))
        self._permit("clipboardReadWrite")

    def quit(self) -> None:
        self.driver.quit()

    def new_tab(self) -> None:
        """A tab that has seen nothing, in place of the one before."""
        old = self.driver.current_window_handle
        self.driver.switch_to.new_window("tab")
        new = self.driver.current_window_handle
        self.driver.switch_to.window(old)
        self.driver.close()
        self.driver.switch_to.window(new)
        self.look()
        self.errors()

    def look(self, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """What the screen is like; motion is reduced, so that what is there is where it will be."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._cdp("Emulation.setDeviceMetricsOverride", **screen)
        self._cdp(
            "Emulation.setEmulatedMedia",
            features=[
                {"name": "prefers-color-scheme", "value": scheme},
                {"name": "prefers-reduced-motion", "value": "reduce"},
            ],
        )

    def errors(self) -> list[str]:
        """What the console said since the last call, less what is only for information."""
        entries = self.driver.get_log("browser")
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def open(self, url: str) -> None:
        self.driver.get(url)

    def open_empty(self, url: str) -> None:
        """The page with its examples taken away."""
        self.open(url)
        self.until(lambda: len(self.numbers()) == 25)
        self.click("#compare-clear")
        assert self.all(".picture") == []

    # looking -------------------------------------------------------------------------------------

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements("css selector", selector)

    def text(self, selector: str) -> str:
        return self.one(selector).text

    def run(self, script: str, *values: Any) -> Any:
        return self.driver.execute_script(script, *values)

    def until(self, condition: Callable[[], Any]) -> Any:
        """What the condition gives as soon as that is true; fails with the page's text after a long time."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            # Elements are replaced while they are looked at; that is no answer yet.
            try:
                if found := condition():
                    return found
            except Exception as error:
                if "stale element" not in str(error) and "no such element" not in str(error):
                    raise
            time.sleep(0.05)
        raise AssertionError(f"waited in vain; on the page: {self.text('main')}")

    def numbers(self) -> list[float]:
        """The numbers in the table of similarities, row by row; what has none is left out."""
        texts = self.run("return [...document.querySelectorAll('.cell')].map(e => e.firstChild?.textContent ?? '')")
        return [float(text) for text in texts if re.fullmatch(r"-?\d+\.\d+", text)]

    # doing ---------------------------------------------------------------------------------------

    def click(self, selector: str) -> None:
        self.one(selector).click()

    def type(self, selector: str, text: str) -> None:
        """Replace what is in a field, key by key."""
        self.one(selector).send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.BACKSPACE, text)

    def keys(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def drop(self, *files: Path) -> None:
        """Drop files or folders into the middle of the page."""
        self._drop(items=[], files=[str(file) for file in files])

    def drop_from_another_page(self, **items: str) -> None:
        """Drop what was dragged out of another page, by its types: `uri_list`, `html`, `plain`."""
        data = [{"mimeType": f"text/{kind.replace('_', '-')}", "data": value} for kind, value in items.items()]
        self._drop(items=data, files=[])

    def _drop(self, **data: Any) -> None:
        for kind in ("dragEnter", "dragOver", "drop"):
            self._cdp("Input.dispatchDragEvent", type=kind, x=600, y=400, data={**data, "dragOperationsMask": 1})

    def choose(self, selector: str, *files: Path) -> None:
        """What the file dialog of a field would give."""
        self.one(selector).send_keys("\n".join(map(str, files)))

    def clipboard(self) -> str:
        """What a paste gives."""
        self.run("document.body.append(Object.assign(document.createElement('textarea'), {id: 'pasted'}))")
        self.one("#pasted").send_keys(Keys.CONTROL, "v")
        content = self.run("const e = document.getElementById('pasted'); e.remove(); return e.value")
        assert isinstance(content, str)
        return content

    def _permit(self, *permissions: str) -> None:
        self._cdp("Browser.grantPermissions", permissions=list(permissions))

    def _cdp(self, command: str, **values: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, values)
