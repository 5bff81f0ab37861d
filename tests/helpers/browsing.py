"""A headless Chromium that clicks through a page."""

import contextlib
import re
import shutil

import pytest


class Browser:
    """The page in a browser; elements are named by their ids."""

    def __init__(self, driver):
        self.driver = driver

    def find(self, css):
        """All elements of a selector."""
        return self.driver.find_elements("css selector", css)

    def until(self, condition):
        """What the condition gives, once it is true; elements may be replaced meanwhile."""
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        gone = (StaleElementReferenceException,)
        wait = WebDriverWait(self.driver, 120, ignored_exceptions=gone)
        return wait.until(lambda _: condition())

    def upload(self, name, path):
        """Puts a file into the place of a picture."""
        clear = f"#{name} button[aria-label='Clear'], #{name} button[title='Clear']"
        for cross in self.find(clear):
            cross.click()
        self.until(lambda: self.find(f"#{name} input[type=file]"))[0].send_keys(str(path))
        self.until(lambda: self.find(f"#{name} img"))

    def tab(self, name):
        """Opens the tab of that title."""
        next(b for b in self.find("button[role=tab]") if b.text == name).click()

    def click(self, name):
        """Clicks once it is seen."""
        self.until(lambda: [b for b in self.find(f"#{name}") if b.is_displayed()])[0].click()

    def write(self, name, words):
        """Replaces the text of a field."""
        field = self.find(f"#{name} textarea, #{name} input")[0]
        field.clear()
        field.send_keys(words)

    def text(self, name):
        """What the element shows."""
        return " ".join(element.text for element in self.find(f"#{name}"))

    def shows(self, words):
        """Whether the words stand anywhere in the page."""
        return words in self.driver.page_source

    def asked(self):
        """Addresses that the browser has asked."""
        return {
            url
            for entry in self.driver.get_log("performance")
            for url in re.findall(r'"url":"(https?://[^/"]+)', entry["message"])
        }


@contextlib.contextmanager
def browse(address):
    """A `Browser` with the page open; the test is skipped where there is no Chromium."""
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("chromium and chromedriver are not on PATH")
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for name in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu"):
        options.add_argument(f"--{name}")
    options.add_argument("--window-size=1320,1000")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(programs[1]))
    try:
        driver.get(address)
        yield Browser(driver)
    finally:
        driver.quit()
